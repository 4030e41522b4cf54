"""Read a prompt out of Python source without running it.

The judges' prompts were released inside scripts, each as a function that returns an f-string. Here the source is
parsed, never executed: a function's ``return`` is followed through plain strings, f-strings, concatenation,
``.format``, ``%``, ``join``, ``strip``, ``dedent``, and the names that were assigned before. Everything else is
refused, naming file, function and line.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from safe_llava.core.errors import PrismError
from safe_llava.prism.prompts.template import (
    CONVERSIONS,
    METHODS,
    Called,
    Field,
    FixedText,
    Formatted,
    Joined,
    Node,
    Percent,
)
from safe_llava.prism.prompts.template import from_format as formatted_text

QUESTION, ANSWER = "question", "answer"
# Words of a parameter's name that say what it stands for.
QUESTION_WORDS = frozenset({"prompt", "question", "query", "q", "instruction", "request", "input", "asked"})
ANSWER_WORDS = frozenset(
    {"response", "answer", "reply", "output", "text", "sentence", "description", "caption", "completion", "a"}
)
FUNCTIONS = ("dedent", "cleandoc")  # called by name; the others of METHODS are methods of strings
REMEDY = "fetch the file again, or choose `prompts: ours` in the judge's row"
Function = ast.FunctionDef | ast.AsyncFunctionDef


class UnsupportedError(Exception):
    """Source that is not followed; the message says what, the line where."""

    def __init__(self, what: str, node: ast.AST) -> None:
        super().__init__(what)
        self.line = getattr(node, "lineno", 0)


@dataclass(frozen=True)
class FoundPrompt:
    """A function that returns a prompt; the fields of ``template`` are ``question`` and ``answer``."""

    function: str
    line: int
    template: Node
    by_position: bool  # whether a parameter's place gave its meaning, its name having none

    def fields(self) -> frozenset[str]:
        """Return which of ``question`` and ``answer`` the prompt holds."""
        return self.template.fields()


def find_prompt(source: str, file: str, with_question: bool) -> FoundPrompt:
    """Return the prompt function of a script.

    Args:
        source: text of the script.
        file: its name, for errors.
        with_question: whether the prompt is to hold the question too (refusals) or only the answer (leakage); of
            several functions, the one that fits is taken.

    Raises:
        PrismError: the source cannot be parsed, no function or more than one fits, or the one that is there does
            what is not followed; naming file, function and line.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{file}, line {line}" if line else file
        raise PrismError(f"{where}: not Python that can be parsed here: {error.args[0]}", REMEDY) from error
    found, refused = _candidates(tree)
    wanted = [{QUESTION, ANSWER}] if with_question else [{ANSWER}, {QUESTION, ANSWER}]
    for fields in wanted:
        for by_position in (False, True):
            fitting = [one for one in found if one.fields() == fields and one.by_position == by_position]
            if fitting:
                return _only(fitting, file)
    if refused:
        raise PrismError(f"{file}: {refused[0]}", REMEDY)
    what = "the question and the answer" if with_question else "the answer"
    seen = ", ".join(f"{one.function} (line {one.line})" for one in found) or "none returns a text with fields"
    raise PrismError(f"{file}: no function returns a prompt made of {what}; seen: {seen}", REMEDY)


def _only(fitting: Sequence[FoundPrompt], file: str) -> FoundPrompt:
    """Return the one that is meant: by its name, else any where all say the same."""
    named = [one for one in fitting if "prompt" in one.function.lower()] or list(fitting)
    if len({one.template for one in named}) > 1:
        lines = ", ".join(f"{one.function} (line {one.line})" for one in named)
        raise PrismError(f"{file}: several functions return a prompt: {lines}", REMEDY)
    return named[0]


def _candidates(tree: ast.Module) -> tuple[list[FoundPrompt], list[str]]:
    """Return the functions that return a text with fields, and why other prompt-like ones were refused."""
    constants = _constants(tree)
    found, refused = [], []
    for function, owner in _functions(tree):
        parameters = _parameters(function, in_class=owner is not None)
        name = f"{owner}.{function.name}" if owner else function.name
        try:
            template = _Reader(parameters, constants).returned(function)
            if template is not None and template.fields():
                found.append(_with_meanings(name, function, parameters, template))
        except UnsupportedError as error:
            if _looks_like_a_prompt(function):
                refused.append(f"{name}, line {error.line}: {error}")
    return found, refused


def _functions(tree: ast.AST, owner: str | None = None) -> Iterator[tuple[Function, str | None]]:
    """Yield every function with the name of the class that it is a method of."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, Function):
            yield child, owner
            yield from _functions(child)
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, child.name)
        else:
            yield from _functions(child, owner)


def _parameters(function: Function, in_class: bool) -> list[str]:
    static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in function.decorator_list)
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    names = names[1:] if in_class and not static else names
    return names + [argument.arg for argument in arguments.kwonlyargs]


def _constants(tree: ast.Module) -> dict[str, Node]:
    """Return the module's plain strings that are assigned once."""
    found: dict[str, Node] = {}
    reader = _Reader([], {})
    for statement in tree.body:
        for target in getattr(statement, "targets", []):
            if isinstance(target, ast.Name) and isinstance(statement, ast.Assign):
                again = target.id in found
                try:
                    found[target.id] = reader.read(statement.value)
                except UnsupportedError:
                    again = True
                if again:
                    found.pop(target.id, None)
    return found


def _looks_like_a_prompt(function: Function) -> bool:
    """Return whether a function that is not followed is worth reporting: there are many others."""
    returns = [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value]
    formatted = any(isinstance(part, ast.JoinedStr) for value in returns for part in ast.walk(value))
    return formatted or (bool(returns) and "prompt" in function.name.lower())


def _with_meanings(name: str, function: Function, parameters: Sequence[str], template: Node) -> FoundPrompt:
    """Return the prompt with its parameters named by what they stand for.

    A parameter is known by the words of its name; where one name says nothing, the order of the released scripts
    holds: the question first, then the answer.
    """
    used = [parameter for parameter in parameters if parameter in template.fields()]
    meanings = {parameter: _meaning(parameter) for parameter in used}
    by_position = None in meanings.values() or len(set(meanings.values())) < len(used)
    if by_position:
        if len(used) > 2:
            unknown = ", ".join(f"`{parameter}`" for parameter in used)
            raise UnsupportedError(
                f"which of the parameters {unknown} are the question and the answer is not known", function
            )
        meanings = dict(zip(used, (QUESTION, ANSWER) if len(used) == 2 else (ANSWER,), strict=True))
    renamed = {parameter: str(meaning) for parameter, meaning in meanings.items()}
    return FoundPrompt(name, function.lineno, _rename(template, renamed), by_position)


def _meaning(parameter: str) -> str | None:
    words = set(parameter.lower().split("_"))
    answer, question = words & ANSWER_WORDS, words & QUESTION_WORDS
    if bool(answer) == bool(question):
        return None
    return ANSWER if answer else QUESTION


def _rename(node: Node, names: Mapping[str, str]) -> Node:
    match node:
        case Field(name):
            return Field(names[name])
        case Joined(parts, separator):
            return Joined(tuple(_rename(part, names) for part in parts), separator)
        case Formatted(part, conversion, spec):
            return Formatted(_rename(part, names), conversion, spec)
        case Called(method, part, arguments):
            return Called(method, _rename(part, names), arguments)
        case Percent(words, parts):
            return Percent(words, tuple(_rename(part, names) for part in parts))
    return node


class _Reader:
    """Follows what one function returns."""

    def __init__(self, parameters: Sequence[str], constants: Mapping[str, Node]) -> None:
        self.names: dict[str, Node] = {**constants, **{name: Field(name) for name in parameters}}

    def returned(self, function: Function) -> Node | None:
        """Return what the function returns, or None where it returns nothing.

        Raises:
            UnsupportedError: it branches, or does what is not followed.
        """
        for statement in function.body:
            match statement:
                case ast.Return(value=value):
                    return None if value is None else self.read(value)
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self.names[name] = self.read(value)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    self.names[name] = self.read(value)
                case ast.AugAssign(target=ast.Name(id=name), op=ast.Add(), value=value):
                    self.names[name] = Joined((self._named(name, statement), self.read(value)))
                case ast.Expr(value=ast.Constant()) | ast.Import() | ast.ImportFrom() | ast.Pass():
                    continue  # a docstring; what is imported is only known by its name
                case _:
                    raise UnsupportedError(f"`{type(statement).__name__}` before its return is not followed", statement)
        return None

    def read(self, node: ast.expr) -> Node:
        """Return the tree of an expression that makes a string."""
        match node:
            case ast.Constant(value=str(value)):
                return FixedText(value)
            case ast.JoinedStr(values=values):
                return Joined(tuple(self.read(value) for value in values))
            case ast.FormattedValue(value=value, conversion=conversion, format_spec=spec):
                return self._placed(self.read(value), "" if conversion < 0 else chr(conversion), spec, node)
            case ast.Name(id=name):
                return self._named(name, node)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return Joined((self.read(left), self.read(right)))
            case ast.BinOp(left=left, op=ast.Mod(), right=right):
                return self._percent(self._plain(left), right)
            case ast.Call():
                return self._called(node)
        raise UnsupportedError(f"`{ast.unparse(node)[:60]}` is no string that can be followed", node)

    def _named(self, name: str, node: ast.AST) -> Node:
        if name not in self.names:
            raise UnsupportedError(f"the name `{name}` is neither a parameter nor a plain string", node)
        return self.names[name]

    def _placed(self, part: Node, conversion: str, spec: ast.expr | None, node: ast.AST) -> Node:
        layout = "" if spec is None else self._plain(spec)
        if not conversion and not layout:
            return part
        return self._checked(Formatted(part, conversion, layout), node)

    def _called(self, node: ast.Call) -> Node:
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in FUNCTIONS and len(node.args) == 1 and not node.keywords:
            return Called(name, self.read(node.args[0]))
        if name == "str" and owner is None and len(node.args) == 1 and not node.keywords:
            return self.read(node.args[0])
        if owner is not None and name == "format":
            return self._format(self._plain(owner), node)
        if (
            owner is not None
            and name == "join"
            and len(node.args) == 1
            and isinstance(node.args[0], ast.List | ast.Tuple)
        ):
            return Joined(tuple(self.read(part) for part in node.args[0].elts), self._plain(owner))
        if owner is not None and name in METHODS and name not in FUNCTIONS and not node.keywords:
            arguments = tuple(self._plain(argument) for argument in node.args)
            return self._checked(Called(name, self.read(owner), arguments), node)
        raise UnsupportedError(f"the call `{ast.unparse(node)[:60]}` is not followed", node)

    def _format(self, text: str, node: ast.Call) -> Node:
        if any(keyword.arg is None for keyword in node.keywords):
            raise UnsupportedError("`**` in a call of `.format` is not followed", node)
        named = {str(keyword.arg): self.read(keyword.value) for keyword in node.keywords}
        try:
            made = formatted_text(text, named, tuple(self.read(argument) for argument in node.args))
        except ValueError as error:
            raise UnsupportedError(str(error), node) from error
        return self._checked(made, node)

    def _percent(self, text: str, right: ast.expr) -> Node:
        parts = right.elts if isinstance(right, ast.Tuple) else [right]
        return self._checked(Percent(text, tuple(self.read(part) for part in parts)), right)

    def _plain(self, node: ast.expr) -> str:
        """Return an expression's string where no parameter is in it."""
        read = self.read(node)
        if read.fields():
            raise UnsupportedError(f"`{ast.unparse(node)[:60]}` changes with the parameters", node)
        return read.render({})

    def _checked(self, made: Node, node: ast.AST) -> Node:
        """Return a tree that renders, or say where it does not, before any answer is laid in it."""
        if isinstance(made, Formatted) and made.conversion not in CONVERSIONS:
            raise UnsupportedError(f"the conversion `!{made.conversion}` is not known", node)
        try:
            made.render(dict.fromkeys(made.fields(), "x"))
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise UnsupportedError(f"it cannot be laid out: {error}", node) from error
        return made
