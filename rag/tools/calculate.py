"""`calculate`: arithmetic for a model, by simpleeval, with every size bounded beforehand.

What a model writes passes three doors: only numbers, known names and operators are tokens here;
only arithmetic may stand in the tree; and simpleeval knows no operator or function but ours.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import cache
from typing import Annotated, Any

from pydantic import Field

from rag.errors import ToolError
from rag.tools.registry import tool

MAX_LENGTH = 1000  # characters
MAX_DEPTH = 200  # of the tree: simpleeval takes two frames of Python's stack for each
MAX_BITS = 4096  # of any whole number on the way: about 1200 digits

Number = int | float


# --- what a model writes, as Python writes it --------------------------------------------------

_CONSTANTS = {"pi": math.pi, "e": math.e}
_AFTER = {"%": "/100", "‰": "/1000", "万": "*10000", "亿": "*100000000"}
_SIGNS = {"\u3000": " ", "×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "π": "pi"}
_FULL_WIDTH = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_AS_WRITTEN = str.maketrans(_FULL_WIDTH | _SIGNS)
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d*)?(?![\d,.])")
_OPERAND = re.compile(r"\s*[A-Za-z_0-9.(]")
_TOKEN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z_0-9]*)"
    r"|(?P<operator>\*\*|//|[-+*/%‰万亿(),])",
    re.ASCII,
)


class _Rewriting:
    """One pass over an expression: `done` holds what Python is to read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._open: list[tuple[int, bool]] = []  # where in `done`, and whether a function's
        self._operand: int | None = None  # where the operand begins that has just ended
        self.done: list[str] = []

    def rewrite(self) -> str:
        while self._skip_blanks() < len(self._text):
            self._step()
        if self._open:
            raise ToolError("A closing parenthesis is missing.")
        return " ".join(self.done)

    def _skip_blanks(self) -> int:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        return self._at

    def _step(self) -> None:
        in_call = any(call for _, call in self._open)
        grouped = None if in_call else _GROUPED.match(self._text, self._at)
        if grouped:
            self._at = grouped.end()
            self._number(grouped[0].replace(",", ""))
            return
        token = _TOKEN.match(self._text, self._at)
        if token is None:
            raise ToolError(_foreign(self._text[self._at]))
        self._at = token.end()
        if token["number"]:
            self._number(token["number"])
        elif token["name"]:
            self._name(token["name"].lower())
        else:
            self._mark(token["operator"])

    def _number(self, written: str) -> None:
        self._no_operand_before(written)
        if not re.search(r"[.eE]", written):
            written = str(int(written))  # Python refuses 007
        elif math.isinf(float(written)):
            raise ToolError(f"{written} is too large.")
        self._operand = len(self.done)
        self.done.append(written)

    def _name(self, name: str) -> None:
        self._no_operand_before(name)
        if name in _CONSTANTS:
            self._operand = len(self.done)
        elif name not in _FUNCTIONS:
            known = ", ".join((*_CONSTANTS, *_FUNCTIONS))
            raise ToolError(f"There is no {name[:40]!r}. There are: {known}.")
        elif not self._text.startswith("(", self._skip_blanks()):
            raise ToolError(f"{name} is a function: write {name}(...).")
        self.done.append(name)

    def _mark(self, mark: str) -> None:
        if mark == "(":
            call = bool(self.done) and self.done[-1] in _FUNCTIONS
            self._no_operand_before(mark)
            self._open.append((len(self.done) - call, call))
        elif mark == ")":
            if not self._open:
                raise ToolError("A closing parenthesis has no opening one.")
            self._operand, _ = self._open.pop()
        elif mark == "," and not (self._open and self._open[-1][1]):
            raise ToolError(
                "A comma separates the arguments of a function, or thousands as in 1,234,567."
            )
        elif mark in _AFTER and self._operand is not None and not self._is_remainder(mark):
            self.done.insert(self._operand, "(")
            mark = f"{_AFTER[mark]})"
        elif mark in "‰万亿":
            raise ToolError(f"{mark} stands behind a number.")
        else:
            self._operand = None
        self.done.append(mark)

    def _is_remainder(self, mark: str) -> bool:
        """`7 % 3` is a remainder; with no operand behind it, `%` is percent."""
        return mark == "%" and _OPERAND.match(self._text, self._at) is not None

    def _no_operand_before(self, what: str) -> None:
        if self._operand is not None:
            raise ToolError(f"An operator is missing before {what[:40]!r}: 2*pi, 3*(4+5).")


def _foreign(character: str) -> str:
    hints = {"^": "write ** for powers", "!": "write factorial(n)", "√": "write sqrt(x)"}
    hint = hints.get(character, "numbers, + - * / // % ** ( ) and functions only")
    return f"{character!r} cannot stand in an expression: {hint}."


# --- arithmetic that cannot explode ------------------------------------------------------------


def _bounded(function: Callable[..., Any]) -> Callable[..., Number]:
    def checked(*values: Number) -> Number:
        result = function(*values)
        if isinstance(result, complex):
            raise ToolError("The result is not a real number.")
        if isinstance(result, int):
            _fits(result.bit_length())
        elif not math.isfinite(result):
            raise ToolError("The result is too large.")
        return result  # type: ignore[no-any-return]

    return checked


def _fits(bits: float) -> None:
    if bits > MAX_BITS:
        raise ToolError(f"A number on the way would have more than {MAX_BITS * 3 // 10} digits.")


def _power(base: Number, exponent: Number) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and exponent > 0 and abs(base) > 1:
        _fits((base.bit_length() - 1) * exponent)
    return base**exponent


def _product(left: Number, right: Number) -> Number:
    if isinstance(left, int) and isinstance(right, int):
        _fits(left.bit_length() + right.bit_length() - 1)
    return left * right


def _factorial(number: Number) -> int:
    if number != int(number) or number < 0:
        raise ToolError("factorial takes a whole number that is not negative.")
    _fits(number)
    _fits(math.lgamma(number + 1) / math.log(2))
    return math.factorial(int(number))


def _sqrt(number: Number) -> Number:
    if isinstance(number, int) and number >= 0:
        root = math.isqrt(number)
        if root * root == number:
            return root
    return math.sqrt(number)


def _round(number: Number, places: Number = 0) -> Number:
    """Half away from zero, as people round; of a float the 15 digits that are shown count."""
    if not isinstance(places, int) or abs(places) > 300:
        raise ToolError("round takes a whole number of places, at most 300.")
    if isinstance(number, float) and (abs(number) >= 1e15 or places > 20):
        return number
    if isinstance(number, int) and places >= 0:
        return number
    exact = Decimal(number if isinstance(number, int) else _digits(number))
    unit = Decimal(1).scaleb(-places)
    rounded = exact.quantize(unit, ROUND_HALF_UP, Context(prec=MAX_BITS))
    return float(rounded) if places > 0 else int(rounded)


def _sum(*numbers: Number) -> Number:
    return math.fsum(numbers) if any(isinstance(n, float) for n in numbers) else sum(numbers)


_PLAIN: dict[str, Callable[..., Any]] = {
    "sqrt": _sqrt,
    "abs": abs,
    "round": _round,
    "min": lambda *numbers: min(numbers),
    "max": lambda *numbers: max(numbers),
    "sum": _sum,
    "floor": math.floor,
    "ceil": math.ceil,
    "log": math.log,
    "log10": math.log10,
    "log2": math.log2,
    "exp": math.exp,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "factorial": _factorial,
}
_FUNCTIONS = {name: _bounded(function) for name, function in _PLAIN.items()}
_OPERATORS: dict[type[ast.AST], Callable[..., Number]] = {
    ast.Add: _bounded(operator.add),
    ast.Sub: _bounded(operator.sub),
    ast.Mult: _bounded(_product),
    ast.Div: _bounded(operator.truediv),
    ast.FloorDiv: _bounded(operator.floordiv),
    ast.Mod: _bounded(operator.mod),
    ast.Pow: _bounded(_power),
    ast.USub: _bounded(operator.neg),
    ast.UAdd: _bounded(operator.pos),
}
_NODES = (ast.BinOp, ast.UnaryOp, ast.Call, ast.Name, ast.Constant, ast.Load, *_OPERATORS)


# --- the tool ----------------------------------------------------------------------------------


@cache
def _evaluator() -> Any:
    """One for all: making one changes the warning filters of the whole process."""
    from simpleeval import SimpleEval  # type: ignore[import-untyped]

    return SimpleEval(operators=_OPERATORS, functions=_FUNCTIONS, names=_CONSTANTS)


def evaluate(expression: str) -> str:
    """The value in digits: whole numbers exactly, others to 15 significant digits.

    Raises ToolError, in milliseconds, for all that is not arithmetic or would be too large.
    """
    if len(expression) > MAX_LENGTH:
        raise ToolError(f"The expression is longer than {MAX_LENGTH} characters.")
    text = _Rewriting(expression.translate(_AS_WRITTEN)).rewrite()
    if not text:
        raise ToolError("The expression is empty.")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, MemoryError, RecursionError):  # the last two: nested too deeply
        raise ToolError(f"{expression[:80]!r} is not a whole expression.") from None
    _check(tree)
    try:
        value = _evaluator().eval(text, previously_parsed=tree)
    except ZeroDivisionError:
        raise ToolError("Division by zero.") from None
    except OverflowError:
        raise ToolError("The result is too large.") from None
    except TypeError:
        raise ToolError("A function has too few or too many arguments.") from None
    except ValueError as error:  # outside a function's domain
        raise ToolError(f"There is no such value: {error}.") from None
    return _digits(value)


def _check(tree: ast.expr) -> None:
    level: list[ast.AST] = [tree]
    for _ in range(MAX_DEPTH):
        for node in level:
            if not isinstance(node, _NODES):
                raise ToolError("Only arithmetic can be calculated.")
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
    raise ToolError(f"The expression is nested more than {MAX_DEPTH} deep.")


def _digits(value: Number) -> str:
    if isinstance(value, int):
        return str(value)
    short = f"{value:.15g}"
    if 1e-10 < abs(value) < 1e21:
        short = f"{Decimal(short):f}"
    return "0" if short == "-0" else short


@tool(cacheable=True)
def calculate(
    expression: Annotated[str, Field(description="for example (1,250 + 380) * 15%")],
) -> str:
    """Calculates an arithmetic expression exactly. Use it for every calculation. 计算算术表达式。

    Operators: + - * / // % (remainder, or percent as in 15%) ** and parentheses; also × ÷ ％ 万 亿.
    Names: pi, e. Functions: sqrt, abs, round(x, places) (四舍五入), min, max, sum, floor, ceil,
    log (natural; log(x, base)), log10, log2, exp, sin, cos, tan (radians), factorial.
    """
    return evaluate(expression)
