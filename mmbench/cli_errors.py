"""Error messages for mistakes on the command line: one sentence with the mistake and what to type instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mmbench.cli_arguments import command_hint, option_hint

_NO_COMMAND = re.compile(r"No such command ['\"](.+?)['\"]")
_EXTRA = re.compile(r"[Gg]ot unexpected extra argument(?:s|\(s\))? \((.+?)\)")
#: Descriptions of arguments, for commands that lack one.
_ARGUMENTS = {
    "RUN": "the name of a run; `mmbench runs` lists them",
    "RUN_A": "the name of a run; `mmbench runs` lists them",
    "NAME": "the name of a component or dataset; `mmbench list` lists them",
    "name": "the name of a component or dataset; `mmbench list` lists them",
    "TARGET": "what to check: a component, a plugin's folder or a .py file",
    "target": "what to check: a component, a plugin's folder or a .py file",
    "KIND": "what to begin: plugin, encoder, fusion, dataset or objective",
}


def usage_message(error: Exception, argv: Sequence[str]) -> str:
    """Return the message for an error of the command line's parser; "" for any other error.

    Args:
        error: As raised by click, or by the copy of it that typer has.
        argv: The arguments.
    """
    if not hasattr(error, "format_message"):
        return ""
    message = str(error.format_message()).strip()
    context: Any = getattr(error, "ctx", None)
    command = _command_of(context)
    kind = type(error).__name__
    if kind == "NoSuchOption":
        option = str(getattr(error, "option_name", ""))
        end = option_hint(option, _options_of(context))
        see = "" if "Did you mean" in end or end.startswith(":") else f" See `{command} --help`."
        return f"`{command}` has no option {option}{end}{see}"
    if found := _NO_COMMAND.search(message):
        end = command_hint(found[1], sorted(getattr(context.command, "commands", {}))) if context else ""
        see = "" if "Did you mean" in end or end.startswith(":") else " See `mmbench --help`."
        return f"`{command}` has no command {found[1]!r}{end}{see}"
    if found := _EXTRA.search(message):
        return f"`{command}` takes no further argument, got {found[1]!r}. See `{command} --help`."
    parameter: Any = getattr(error, "param", None)
    if kind == "MissingParameter" and parameter is not None:
        name = str(parameter.metavar or parameter.name or "").strip("[]")
        if parameter.param_type_name == "option":
            return f"`{command}` needs {parameter.opts[-1]}. See `{command} --help`."
        what = _ARGUMENTS.get(name.split()[0] if name else "", f"{name}; see `{command} --help`")
        return f"`{command}` needs {what}"
    if kind == "BadOptionUsage":
        option = str(getattr(error, "option_name", ""))
        return f"{option} needs a value. See `{command} --help`."
    if kind == "BadParameter" and parameter is not None:
        name = parameter.opts[-1] if parameter.param_type_name == "option" else str(parameter.metavar or parameter.name)
        value = _last_value(parameter.opts, argv)
        return f"{name}{f' {value}' if value else ''}: {_requirement(message)}"
    return message[:1].lower() + message[1:]


def _requirement(message: str) -> str:
    """Return the requirement on a value, such as "takes a number", from a validator's message."""
    text = re.sub(r"^Invalid value(?: for .+?)?: ", "", message)
    if re.search(r"integer|int_parsing", text):
        return "takes a whole number"
    if re.search(r"float|valid number", text):
        return "takes a number"
    choices = re.search(r"(?:is not one of|Input should be) (.+?)\.?$", text)
    if choices:
        *names, last = choices[1].replace("'", "").replace(" or ", ", ").split(", ")
        return f"takes {', '.join(names)} or {last}" if names else f"takes {last}"
    return text[:1].lower() + text[1:]


def _last_value(options: Sequence[str], argv: Sequence[str]) -> str:
    """Return the last value of an option among the arguments, "" without one."""
    for place in range(len(argv) - 1, -1, -1):
        name, equals, value = argv[place].partition("=")
        if name in options:
            return value if equals else argv[place + 1] if place + 1 < len(argv) else ""
    return ""


def _command_of(context: Any) -> str:
    names: list[str] = []
    while context is not None and context.parent is not None:
        names.insert(0, str(context.info_name))
        context = context.parent
    return " ".join(["mmbench", *names])


def _options_of(context: Any) -> list[str]:
    if context is None:
        return []
    return [name for parameter in context.command.params for name in parameter.opts if name.startswith("--")]
