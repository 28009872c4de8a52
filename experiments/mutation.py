"""Mutants of a module: small faults, each a change of one piece of its source.

What is changed is text: everything else of the file stays as it is, also its line numbers. What
only people read is left alone: annotations, messages, what is said to a log, assertions.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

_COMPARISONS = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In},
}
_ARITHMETIC = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult},
    **{ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr},
}
_NAMES = {
    **{"min": "max", "max": "min", "any": "all", "all": "any", "argmin": "argmax"},
    **{"argmax": "argmin", "LOCK_EX": "LOCK_SH", "zeros_like": "ones_like", "floor": "ceil"},
}
_SAID = {"expected", "unknown_name", "log", "warnings", "TypeVar", "NewType", "cast"}


@dataclass(frozen=True)
class Mutant:
    """One small fault.

    Attributes:
        path: The module, below the package.
        function: Where it is in it; nothing at the level of the module.
        line: Its line, for people: it moves when code above does.
        start: Where the piece begins that is replaced, in bytes.
        end: And where it ends.
        old: The piece, on one line.
        new: What takes its place.
        number: Which of those in the function that look alike.
    """

    path: str
    function: str
    line: int
    start: int
    end: int
    old: str
    new: str
    number: int = 0

    @property
    def key(self) -> str:
        """What it is known by, also when code around it has moved."""
        again = f" #{self.number + 1}" if self.number else ""
        return f"{self.path} {self.function or '(module)'}: {self.old} -> {self.new}{again}"

    def applied(self, source: bytes) -> bytes:
        """Returns the source with the fault in it.

        Raises:
            SyntaxError: If that is no Python.
        """
        changed = source[: self.start] + self.new.encode() + source[self.end :]
        compile(changed, self.path, "exec")
        return changed


class _Finder(ast.NodeVisitor):
    def __init__(self, path: str, source: bytes) -> None:
        self.path, self.source = path, source
        lengths = [len(line) for line in source.splitlines(keepends=True)]
        self.starts = [0]
        for length in lengths:
            self.starts.append(self.starts[-1] + length)
        self.within: list[str] = []
        self.found: list[Mutant] = []

    def add(self, node: ast.expr | ast.stmt, new: str) -> None:
        start = self.starts[node.lineno - 1] + node.col_offset
        end = self.starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        old = " ".join(self.source[start:end].decode().split())
        function = ".".join(self.within)
        self.found.append(Mutant(self.path, function, node.lineno, start, end, old, new))

    def replace(self, node: ast.expr, new: ast.expr) -> None:
        self.add(node, f"({ast.unparse(ast.fix_missing_locations(new))})")

    # Where nothing is changed

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Nothing: a message, most often."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """Nothing: it says what is the case, to a type checker."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        """Nothing: a name and an annotation."""

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not isinstance(node.value, ast.Name) or not node.value.id[0].isupper():
            self.generic_visit(node)  # else it is a type

    def visit_Raise(self, node: ast.Raise) -> None:
        self.add(node, "pass")

    # Functions

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._body(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if any("overload" in ast.unparse(each) for each in node.decorator_list):
            return
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self.visit(default)
        self._body(node)

    def _body(self, node: ast.FunctionDef | ast.ClassDef) -> None:
        self.within.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.within.pop()

    # What is changed

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return
        self._condition(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def _condition(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Compare | ast.UnaryOp | ast.Constant):
            self.replace(test, ast.UnaryOp(ast.Not(), test))

    def visit_Compare(self, node: ast.Compare) -> None:
        other = _COMPARISONS[type(node.ops[0])]()
        self.replace(node, ast.Compare(node.left, [other, *node.ops[1:]], node.comparators))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        left_alone = any(map(_is_text_or_type, (node.left, node.right)))
        if (other := _ARITHMETIC.get(type(node.op))) is not None and not left_alone:
            self.replace(node, ast.BinOp(node.left, other(), node.right))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self.replace(node, ast.BoolOp(other, node.values))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub):
            self.replace(node, node.operand)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.add(node, str(not value))
        elif isinstance(value, int):
            self.add(node, str(value + 1))
        elif isinstance(value, float):
            self.add(node, repr(value * 2 or 1.0))

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in _NAMES and isinstance(node.ctx, ast.Load):
            self.add(node, _NAMES[node.id])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in _NAMES and isinstance(node.ctx, ast.Load):
            self.add(node, f"({ast.unparse(node.value)}).{_NAMES[node.attr]}")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not isinstance(node.value, ast.Constant):
            self.add(node.value, "None")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func).partition(".")[0]
        if name in _SAID:
            return
        first, *others = node.args[:2] or [None]
        if others and not any(isinstance(each, ast.Starred) for each in node.args[:2]):
            swapped = [others[0], first, *node.args[2:]]
            if ast.unparse(others[0]) != ast.unparse(first) and name != "isinstance":
                self.replace(node, ast.Call(node.func, swapped, node.keywords))
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            if ast.unparse(node.value.func).partition(".")[0] not in _SAID:
                self.add(node, "pass")
            self.visit(node.value)
        elif not isinstance(node.value, ast.Constant):
            self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        # Without the assignment of a name there is a `NameError`, which every test notices.
        if isinstance(node.targets[0], ast.Attribute | ast.Subscript):
            self.add(node, "pass")
        if not isinstance(node.targets[0], ast.Name) or node.targets[0].id != "__all__":
            self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.add(node, "pass")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self.add(node, "break")

    def visit_Break(self, node: ast.Break) -> None:
        self.add(node, "continue")


def _is_text_or_type(node: ast.expr) -> bool:
    """Returns whether it is no number, of which the other operators would not be Python."""
    if isinstance(node, ast.Subscript):
        node = node.value
    of_constant = isinstance(node, ast.Constant) and isinstance(node.value, str | None)
    of_name = isinstance(node, ast.Name) and node.id.strip("_")[:1].isupper()
    return of_constant or isinstance(node, ast.JoinedStr) or (of_name and not node.id.isupper())


def mutants_of(path: str, source: bytes) -> Iterator[Mutant]:
    r"""Yields all mutants of a module.

    Example:
        >>> found = mutants_of("a.py", b"def f(a):\n    return a < 1\n")
        >>> sorted(each.key for each in found)
        ['a.py f: 1 -> 2', 'a.py f: a < 1 -> (a <= 1)', 'a.py f: a < 1 -> None']
    """
    finder = _Finder(path, source)
    finder.visit(ast.parse(source))
    seen: Counter[str] = Counter()
    for each in finder.found:
        number = seen[each.key]
        seen[each.key] += 1
        yield replace(each, number=number)


def marked(path: str, source: str) -> tuple[str, list[str]]:
    """Returns a module whose functions say when they are run, and the names of these.

    Each begins with a call of ``pyro_vae._hits.hit``: of what the package itself reads, the engine
    does not see to it that it stays as it is.
    """
    tree, within, names = ast.parse(source), [], []

    def mark(node: ast.AST) -> None:
        for each in ast.iter_child_nodes(node):
            is_one = isinstance(each, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
            within.extend([each.name] if is_one else [])
            if is_one and not isinstance(each, ast.ClassDef):
                names.append(f"{path} {'.'.join(within)}")
                code = f"__import__('pyro_vae._hits', fromlist=['hit']).hit({names[-1]!r})"
                has_text = isinstance(each.body[0], ast.Expr) and isinstance(
                    each.body[0].value, ast.Constant
                )
                hit = ast.copy_location(ast.parse(code).body[0], each.body[0])
                each.body.insert(1 if has_text else 0, hit)
            mark(each)
            if is_one:
                within.pop()

    mark(tree)
    return ast.unparse(ast.fix_missing_locations(tree)), names
