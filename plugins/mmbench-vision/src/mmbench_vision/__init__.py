"""Image encoders for mmbench: small ones trained from scratch, and any model of timm or transformers."""

from mmbench import EncoderSpec, hookimpl
from mmbench_vision import timm_presets


@hookimpl
def mmbench_encoders() -> list[EncoderSpec]:
    """Offer `cnn`, `mlp`, `vit-tiny`, and pretrained ones: `timm`, `transformers`, presets."""
    return [
        EncoderSpec(
            name="cnn",
            kinds=("image",),
            layouts=("vector", "sequence", "pyramid"),
            factory="mmbench_vision.cnn:ImageCNN",
            defaults={"feature_dim": 64, "width": 16, "dropout": 0.0, "max_side": 32},
            version="1",
            summary="Three convolution blocks; tokens are the positions of the last feature map",
            paper="LeCun et al. 1998, doi:10.1109/5.726791; group normalisation: Wu & He 2018, arXiv:1803.08494",
            licence="Apache-2.0",
        ),
        EncoderSpec(
            name="mlp",
            kinds=("image",),
            layouts=("vector",),
            factory="mmbench_vision.mlp:ImageMLP",
            defaults={"feature_dim": 64, "width": 128, "depth": 2, "dropout": 0.0, "max_side": 32},
            version="1",
            summary="Perceptron over all pixels",
            licence="Apache-2.0",
        ),
        EncoderSpec(
            name="vit-tiny",
            kinds=("image",),
            layouts=("vector", "sequence", "pyramid"),
            factory="mmbench_vision.vit:TinyViT",
            defaults={
                "feature_dim": 64,
                "width": 32,
                "depth": 2,
                "num_heads": 4,
                "grid": 4,
                "dropout": 0.0,
                "max_side": 32,
            },
            version="1",
            summary="Two transformer layers over grid x grid patches; tokens are the patches",
            paper="Dosovitskiy et al. 2020, arXiv:2010.11929",
            licence="Apache-2.0",
        ),
        EncoderSpec(
            name="timm",
            kinds=("image",),
            layouts=("vector", "sequence", "pyramid"),
            tunings=("frozen", "finetune", "adapter", "scratch"),
            target="required",
            describe="mmbench_vision.timm_files:describe",
            prepare="mmbench_vision.timm_files:prepare",
            factory="mmbench_vision.timm_model:TimmImage",
            defaults={"size": 0, "stages": 3},
            version="1",
            summary="Any model of timm (ResNet, VGG, ViT, ConvNeXt, …), by name or folder",
            paper="Wightman 2019, doi:10.5281/zenodo.4414861; each architecture has its own",
            licence="Apache-2.0 (the library); each model's weights have their own",
            requires=("timm",),
            in_all=False,
        ),
        EncoderSpec(
            name="transformers",
            kinds=("image",),
            layouts=("vector", "sequence", "pyramid"),
            tunings=("frozen", "finetune", "adapter", "scratch"),
            target="required",
            describe="mmbench_vision.tower_files:describe",
            prepare="mmbench_vision.tower_files:prepare",
            factory="mmbench_vision.tower:TransformerImage",
            defaults={"pooling": "auto", "stages": 3},
            version="1",
            summary="Image towers of transformers (CLIP, SigLIP, ViT, DINOv2, …), by name or folder",
            paper="Wolf et al. 2019, arXiv:1910.03771; each model has its own",
            licence="Apache-2.0 (the library); each model's weights have their own",
            requires=("transformers", "torchvision"),
            in_all=False,
        ),
        *timm_presets.specs(),
    ]
