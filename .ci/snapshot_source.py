"""What the source of the server says, wherever in it: for `snapshot.py`."""

import ast
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING
from enum import Enum
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TREES = [ast.parse(path.read_text()) for path in sorted((ROOT / "server").rglob("*.py"))]
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
Lines = Iterator[str]


def plain(value: Any) -> str:
    """Write a value so that it is the same in every process."""
    match value:
        case set() | frozenset():
            return f"{{{', '.join(sorted(map(plain, value)))}}}"
        case tuple() | list():
            return f"({', '.join(map(plain, value))})"
        case Mapping():
            return f"{{{', '.join(sorted(f'{plain(key)}: {plain(item)}' for key, item in value.items()))}}}"
    return repr(value.value if isinstance(value, Enum) else "required" if value is MISSING else value)


def found(kind: Any, *where: ast.AST) -> Iterator[Any]:
    """Give every node of a kind below others."""
    return (node for root in where for node in ast.walk(root) if isinstance(node, kind))


@cache
def constants(tree: ast.Module) -> dict[str, Any]:
    """Give the constants of a module that are made of literals alone."""
    given = {}
    for node in (node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) and node.value):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if isinstance(target, ast.Name) and not any(found(ast.Lambda, node)):
            with suppress(Exception):  # what is made of anything else needs a name
                known = {"__builtins__": {}, "re": re, "frozenset": frozenset}
                given[target.id] = eval(ast.unparse(node.value), known)  # noqa: S307 - our own source
    return given


NAMED = [pair for tree in TREES for pair in constants(tree).items()]
EVERYWHERE = {
    name: value for name, value in NAMED if all(value == other for same, other in NAMED if same == name)
}


def value_of(node: ast.AST, tree: ast.Module) -> Any:
    """Give what a literal or a constant's name stands for, or None."""
    if isinstance(node, ast.Name):
        return constants(tree).get(node.id, EVERYWHERE.get(node.id))
    return node.value if isinstance(node, ast.Constant) else None


def texts(function: Any, tree: ast.Module) -> str:
    """List the short texts in a function without its documentation, constants that it names included."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    given = (value_of(node, tree) for node in found((ast.Constant, ast.Name), *body))
    kept = {repr(text) for text in given if isinstance(text, str | bytes) and len(text) <= 60}
    return " ".join(sorted(kept))


def logged() -> Lines:
    """List log events with their loggers, levels and fields, and the names of the loggers."""
    for tree in TREES:
        loggers = {}
        for made in (node for node in tree.body if isinstance(node, ast.Assign)):
            if re.match(r"([\w.]+\.)?(get|get_logger|getLogger)\('[\w.]+'\)$", ast.unparse(made.value)):
                loggers[ast.unparse(made.targets[0])] = made.value.args[0].value
        yield from (f"logger {name}" for name in loggers.values())
        for call in (node for node in found(ast.Call, tree) if node.args):
            logger, _, level = ast.unparse(call.func).rpartition(".")
            event = value_of(call.args[0], tree)
            if level in LEVELS and re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", str(event)):
                names = sorted(word.arg or f"**{ast.unparse(word.value)}" for word in call.keywords)
                yield f"{event} {level} source={loggers.get(logger, '?')} {' '.join(names)}"
        for function in found(FUNCTION, tree):
            dicts = [ast.unparse(row) for row in found(ast.Dict, function)]
            if any(re.match("{'(source|time)': .*'(event|action)': ", text) for text in dicts):
                yield f"line written as it is, of {texts(function, tree)}"


def purpose_texts() -> Lines:
    """List the texts in functions that bind, digest or sign."""
    digests = re.compile(r"\b(associated_data|sha256|blake2b|file_digest|hmac\.digest|hmac\.new)$")
    for tree, function in ((root, node) for root in TREES for node in found(FUNCTION, root)):
        for call in found(ast.Call, function):
            if re.search(r"secrets?\.obtain$", ast.unparse(call.func)):
                yield f"shared secret {value_of(call.args[2], tree)}"
            elif name := digests.search(ast.unparse(call.func)):
                yield f"{name[0]} beside {texts(function, tree)}"


def enums() -> Lines:
    """List the members of every enum, and the values of every literal type."""
    for tree, made in ((root, node) for root in TREES for node in found(ast.ClassDef, root)):
        if any(ast.unparse(base).endswith(("Enum", "Flag")) for base in made.bases):
            for member in (node for node in made.body if isinstance(node, ast.Assign)):
                yield f"{made.name}.{ast.unparse(member.targets[0])} = {value_of(member.value, tree)!r}"
    yield from (text for text in map(ast.unparse, found(ast.Assign, *TREES)) if " = Literal[" in text)


def simulator_options() -> Lines:
    """List the options of the simulator's own command."""
    for call in found(ast.Call, *TREES):
        if ast.unparse(call.func).endswith(".add_argument"):
            words = sorted(ast.unparse(word) for word in call.keywords if word.arg != "help")
            yield f"zoom_simulator {' '.join([ast.unparse(call.args[0]), *words])}"


def literals() -> Lines:
    """List the constants that are made of literals alone: limits, times, patterns, names."""
    for name, value in NAMED:
        text = plain(value)
        yield f"{name} = {text if len(text) <= 200 else sha256(text.encode()).hexdigest()}"
