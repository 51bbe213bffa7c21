"""Facts that `snapshot.py` extracts from the source code of the server."""

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
    """Return a representation of a value that is the same in every process."""
    match value:
        case set() | frozenset():
            return f"{{{', '.join(sorted(map(plain, value)))}}}"
        case tuple() | list():
            return f"({', '.join(map(plain, value))})"
        case Mapping():
            return f"{{{', '.join(sorted(f'{plain(key)}: {plain(item)}' for key, item in value.items()))}}}"
    return repr(value.value if isinstance(value, Enum) else "required" if value is MISSING else value)


def nodes(kind: Any, *roots: ast.AST) -> Iterator[Any]:
    """Yield all nodes of a type below the given nodes."""
    return (node for root in roots for node in ast.walk(root) if isinstance(node, kind))


@cache
def constants(tree: ast.Module) -> dict[str, Any]:
    """Return the constants of a module that consist of literals only."""
    values = {}
    for node in (node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) and node.value):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if isinstance(target, ast.Name) and not any(nodes(ast.Lambda, node)):
            with suppress(Exception):  # any other expression refers to a name, which is unknown here
                names = {"__builtins__": {}, "re": re, "frozenset": frozenset}
                values[target.id] = eval(ast.unparse(node.value), names)  # noqa: S307 - our own source
    return values


NAMED = [pair for tree in TREES for pair in constants(tree).items()]
EVERYWHERE = {
    name: value
    for name, value in NAMED
    if all(value == other for other_name, other in NAMED if other_name == name)
}


def value_of(node: ast.AST, tree: ast.Module) -> Any:
    """Return the value of a literal or of a named constant, or None."""
    if isinstance(node, ast.Name):
        return constants(tree).get(node.id, EVERYWHERE.get(node.id))
    return node.value if isinstance(node, ast.Constant) else None


def texts(function: Any, tree: ast.Module) -> str:
    """Return the short strings in a function, including those of constants that it uses, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    values = (value_of(node, tree) for node in nodes((ast.Constant, ast.Name), *body))
    short = {repr(text) for text in values if isinstance(text, str | bytes) and len(text) <= 60}
    return " ".join(sorted(short))


def logged() -> Lines:
    """Yield the log events with their loggers, levels and fields, and the names of the loggers."""
    for tree in TREES:
        loggers = {}
        for node in (child for child in tree.body if isinstance(child, ast.Assign)):
            if re.match(r"([\w.]+\.)?(get|get_logger|getLogger)\('[\w.]+'\)$", ast.unparse(node.value)):
                loggers[ast.unparse(node.targets[0])] = node.value.args[0].value
        yield from (f"logger {name}" for name in loggers.values())
        for call in (node for node in nodes(ast.Call, tree) if node.args):
            logger, _, level = ast.unparse(call.func).rpartition(".")
            event = value_of(call.args[0], tree)
            if level in LEVELS and re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", str(event)):
                names = sorted(word.arg or f"**{ast.unparse(word.value)}" for word in call.keywords)
                yield f"{event} {level} source={loggers.get(logger, '?')} {' '.join(names)}"
        for function in nodes(FUNCTION, tree):
            dicts = [ast.unparse(row) for row in nodes(ast.Dict, function)]
            if any(re.match("{'(source|time)': .*'(event|action)': ", text) for text in dicts):
                yield f"line written as it is, of {texts(function, tree)}"


def purpose_texts() -> Lines:
    """Yield the strings in functions that compute associated data, digests or signatures."""
    digests = re.compile(r"\b(associated_data|sha256|blake2b|file_digest|hmac\.digest|hmac\.new)$")
    for tree, function in ((root, node) for root in TREES for node in nodes(FUNCTION, root)):
        for call in nodes(ast.Call, function):
            if re.search(r"secrets?\.obtain$", ast.unparse(call.func)):
                yield f"shared secret {value_of(call.args[2], tree)}"
            elif name := digests.search(ast.unparse(call.func)):
                yield f"{name[0]} beside {texts(function, tree)}"


def enums() -> Lines:
    """Yield the members of every enum and the values of every `Literal` type."""
    for tree, node in ((root, node) for root in TREES for node in nodes(ast.ClassDef, root)):
        if any(ast.unparse(base).endswith(("Enum", "Flag")) for base in node.bases):
            for member in (child for child in node.body if isinstance(child, ast.Assign)):
                yield f"{node.name}.{ast.unparse(member.targets[0])} = {value_of(member.value, tree)!r}"
    yield from (text for text in map(ast.unparse, nodes(ast.Assign, *TREES)) if " = Literal[" in text)


def simulator_options() -> Lines:
    """Yield the command-line options of the simulator."""
    for call in nodes(ast.Call, *TREES):
        if ast.unparse(call.func).endswith(".add_argument"):
            words = sorted(ast.unparse(word) for word in call.keywords if word.arg != "help")
            yield f"zoom_simulator {' '.join([ast.unparse(call.args[0]), *words])}"


def literals() -> Lines:
    """Yield the constants that consist of literals only: limits, times, patterns and names."""
    for name, value in NAMED:
        text = plain(value)
        yield f"{name} = {text if len(text) <= 200 else sha256(text.encode()).hexdigest()}"
