"""Seeds trained in one vectorised pass give what each gives alone: to the last rounding, and whatever the others do."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from torch import nn
from torch.func import vmap
from training_cases import LABEL, TAGS, VALUE, Supervised, make_scalers, make_split

from mmbench.config import TrainConfig
from mmbench.errors import Diverged
from mmbench.features import Features
from mmbench.frozen import Standardiser, StoredFeatures
from mmbench.model import MultimodalModel
from mmbench.registry import load_registry
from mmbench.spec import EncoderSpec, FusionSpec, ObjectiveSpec
from mmbench.together import TrainerOfSeveral
from mmbench.train import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


class Encoder(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.feature_dim = 16
        self.net = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 16))
        self.register_buffer("shift", torch.full((4,), 0.1))

    def forward(self, values, mask):
        if mask is None:
            return Features(self.net(values + self.shift))
        return Features(self.net(values + self.shift), mask).to_vector()


class Concat(nn.Module):
    fused_dim = 32

    def forward(self, features):
        return torch.cat([features[name].tensor for name in sorted(features)], dim=1)


def make_trainers(num_seeds, *, tasks=(LABEL,), dropout=0.2, objective=Supervised, **settings):
    config = TrainConfig(**{"epochs": 3, "batch_size": 32, "patience": 0, **settings})
    train, val = (make_split(*given, tasks, sequences=True) for given in ((203, 1), (101, 2)))
    scalers = make_scalers(train, tasks)
    trainers = []
    for seed in range(num_seeds):
        torch.manual_seed(seed)
        encoders = {"x": Encoder(dropout), "y": Encoder(0.0)}
        model = MultimodalModel(encoders, dict.fromkeys(encoders, "vector"), Concat(), tasks, dropout=dropout)
        trainers.append(
            Trainer(model, objective(), train, val, tasks, scalers, config, order_seed=50 + seed, noise_seed=90 + seed)
        )
    return trainers


def agree(alone, together):
    assert len(alone.history) == len(together.history)
    for one, other in zip(alone.history, together.history):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-5)
        assert other.val_loss == pytest.approx(one.val_loss, rel=1e-5)
        assert other.val_score == one.val_score
        assert other.lr == one.lr
        assert other.grad_norms == pytest.approx(one.grad_norms, rel=1e-4)
    assert (alone.best_epoch, alone.num_steps, alone.selected_by) == (
        together.best_epoch, together.num_steps, together.selected_by
    )  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimiser": "sgd", "schedule": "constant"},
        {"optimiser": "adam", "l1": 1e-4, "clip_norm": 0.0},
        {"batch_size": 101, "class_weights": "balanced"},  # whose last batch of one is left out
        {"batch_size": 300},
    ],
    ids=str,
)
def test_seeds_trained_together_end_where_each_ends_alone(settings):
    alone, together = make_trainers(3, **settings), make_trainers(3, **settings)

    results = [trainer.run() for trainer in alone]
    several = TrainerOfSeveral(together).run()

    for one, other, result, among in zip(alone, together, results, several):
        agree(result, among)
        for name, value in one.model.state_dict().items():
            torch.testing.assert_close(other.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert len({result.history[-1].train_loss for result in several}) == 3


def test_several_tasks_of_all_kinds_are_trained_together():
    tasks = (LABEL, VALUE, TAGS)
    alone, together = make_trainers(2, tasks=tasks), make_trainers(2, tasks=tasks)

    for result, among in zip([trainer.run() for trainer in alone], TrainerOfSeveral(together).run()):
        agree(result, among)


def test_each_seed_has_dropout_of_its_own():
    """Equal weights and orders: with dropout the seeds part, without they do not."""
    losses = {}
    for dropout in (0.0, 0.5):
        trainers = make_trainers(2, dropout=dropout)
        trainers[1].model.load_state_dict(trainers[0].model.state_dict())
        trainers[1].order.manual_seed(50)
        first, second = TrainerOfSeveral(trainers).run()
        losses[dropout] = abs(first.history[0].train_loss - second.history[0].train_loss)

    assert losses[0.0] < 1e-6
    assert losses[0.5] > 1e-3


def test_training_together_leaves_the_global_random_state_alone():
    trainers = make_trainers(2)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    TrainerOfSeveral(trainers).run()

    assert torch.equal(torch.rand(3), expected)


def test_a_seed_whose_patience_ends_stops_and_the_others_go_on():
    settings = {"epochs": 10, "patience": 2, "lr": 3e-2, "batch_size": 64}
    alone, together = make_trainers(4, **settings), make_trainers(4, **settings)

    results = [trainer.run() for trainer in alone]
    several = TrainerOfSeveral(together).run()

    assert len({len(result.history) for result in results}) > 1  # else nothing is tested
    for result, among in zip(results, several):
        agree(result, among)


def test_a_seed_that_diverges_does_not_touch_the_others():
    alone, together = make_trainers(3), make_trainers(3)
    with torch.no_grad():
        next(together[1].model.parameters()).fill_(float("inf"))

    first, broken, last = TrainerOfSeveral(together).run()

    assert isinstance(broken, Diverged)
    assert str(broken) == "the loss on train is nan in epoch 1; a lower lr may help"
    agree(alone[0].run(), first)
    agree(alone[2].run(), last)


def test_the_weights_of_a_trained_model_are_its_own():
    """Else one seed's profile, which takes steps, would move another's weights, and a copy would hold all of them."""
    first, second = make_trainers(2)
    TrainerOfSeveral([first, second]).run()
    before = copy.deepcopy(second.model.state_dict())

    first.step(first.train_data.batch(torch.arange(32)))

    assert all(torch.equal(before[name], value) for name, value in second.model.state_dict().items())
    weight = next(second.model.parameters())
    assert weight.untyped_storage().nbytes() == weight.nbytes


class Late(torch.Tensor):
    """Numbers that arrive a while after they were asked for, as a GPU's do."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.tolist, torch.Tensor.item, torch.Tensor.__float__):
            time.sleep(0.2)
        return super().__torch_function__(func, types, args, kwargs)


def test_the_time_of_an_epoch_ends_when_its_numbers_have_arrived(monkeypatch):
    take_step = TrainerOfSeveral._step
    monkeypatch.setattr(TrainerOfSeveral, "_step", lambda *given: take_step(*given).as_subclass(Late))

    for result in TrainerOfSeveral(make_trainers(2)).run():
        assert all(epoch.time_s >= 0.1 for epoch in result.history)  # an equal share of the time of two


class Draws(Supervised):
    def forward(self, step):
        return {"task": step.task_loss(step.output.logits) * (1 + torch.rand(()))}


class ChangesGradients(Supervised):
    def after_backward(self, step):
        pass


def test_what_draws_at_random_otherwise_than_by_dropout_is_refused():
    with pytest.raises(RuntimeError, match="randomness error mode"):
        TrainerOfSeveral(make_trainers(2, objective=Draws)).run()


def test_what_one_pass_cannot_do_for_all_is_refused():
    with pytest.raises(ValueError, match="can have no after_backward"):
        TrainerOfSeveral(make_trainers(2, objective=ChangesGradients))
    with pytest.raises(ValueError, match="must share their training data"):
        TrainerOfSeveral([*make_trainers(1), *make_trainers(1)])


def declared(spec_type):
    registry = load_registry()
    found = [
        entry.ref
        for role in ("encoder", "fusion", "objective")
        for entry in registry.entries(role)
        if isinstance(entry.spec, spec_type) and entry.spec.vectorises and entry.ref.startswith("mmbench-")
    ]
    assert len(found) >= 8
    return found


@pytest.mark.parametrize("package", ["vision", "audio", "text", "tabular", "sequence", "fusion"])
def test_every_first_party_part_that_declares_it_gives_the_same_in_one_pass(package):
    from mmbench.testing import vectorised
    from mmbench.testing.subjects import ModuleSubject
    from mmbench.testing.suite import Suite

    suite = Suite(f"mmbench-{package}", "smoke")
    parts = [part for part in suite.target.parts if getattr(part.spec, "vectorises", False)]
    modules = [part for part in parts if isinstance(part.spec, EncoderSpec | FusionSpec)]
    assert modules
    for part in modules:
        vectorised.vectorises(ModuleSubject(part, "smoke", "cpu"))


def test_every_first_party_objective_that_declares_it_trains_the_same_in_one_pass():
    from mmbench.part_code import load_attribute

    registry = load_registry()
    for ref in declared(ObjectiveSpec):
        spec = registry.resolve("objective", ref).entry.spec

        def objective(spec=spec):
            torch.manual_seed(3)
            return load_attribute(spec.factory)({"x": 16, "y": 16}, (LABEL,), **spec.defaults)

        def trainers(objective=objective):
            made = make_trainers(2, objective=objective, epochs=2)
            if getattr(made[0].objective, "needs_unimodal_heads", False):
                for trainer in made:
                    trainer.model.unimodal_heads.extend(nn.Linear(16, 2) for _ in range(2))
                made = [
                    Trainer(
                        trainer.model, trainer.objective, trainer.train_data, trainer.val_data, trainer.tasks,
                        trainer.scalers, trainer.config, order_seed=1, noise_seed=2,
                    )
                    for trainer in made
                ]  # fmt: skip
            return made

        torch.manual_seed(11)
        alone = [trainer.run() for trainer in trainers()]
        torch.manual_seed(11)
        for result, among in zip(alone, TrainerOfSeveral(trainers()).run()):
            agree(result, among)


@pytest.mark.parametrize(("feature_dtype", "dtype"), [("fp32", torch.float32), ("fp16", torch.float16)])
def test_stored_features_are_read_for_all_seeds_at_once(feature_dtype, dtype):
    stands_in = StoredFeatures(4, "vector", feature_dtype, Standardiser(torch.ones(4), torch.full((4,), 2.0)))
    values = torch.randn(3, 5, 4).to(dtype)

    together = vmap(lambda own: stands_in(own, None).tensor)(values)

    for seed in range(3):
        torch.testing.assert_close(together[seed], stands_in(values[seed], None).tensor)


FUSIONS = {
    "buffer": ("self.seen += 1", "forward changes a buffer, which a vectorised pass does not keep"),
    "noise": ("joined = joined + (torch.randn_like(joined) if self.training else 0)", "the vectorised pass fails"),
    "values": ("joined = joined * 2 if joined.mean() > 0 else joined", "the vectorised pass fails"),
    "honest": ("pass", None),
}


@pytest.mark.parametrize("kind", FUSIONS)
def test_the_check_finds_a_declaration_that_does_not_hold(kind, tmp_path):
    from seeded import failures, fusion_package

    line, reason = FUSIONS[kind]
    code = f"""
    class Fusion(nn.Module):
        def __init__(self, dims, tasks):
            super().__init__()
            self.names, self.fused_dim = sorted(dims), 8
            self.linear = nn.Linear(sum(dims.values()), 8)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, features):
            vectors = [features[name].tensor.masked_fill(~features[name].present[:, None], 0) for name in self.names]
            joined = self.linear(torch.cat(vectors, dim=1))
            {line}
            return joined
    """
    package = fusion_package(tmp_path, f"seeded-vectorises-{kind}", code, vectorises=True)

    found = failures(package).get("fusion.vectorises")

    assert (found is None) == (reason is None)
    if found is not None:
        assert reason in str(found)
