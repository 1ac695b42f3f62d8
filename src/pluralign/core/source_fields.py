"""The fields of a dataclass from its source, without importing what its module imports."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path


def field_names(module: str, name: str) -> set[str]:
    """Names of the fields of a dataclass and of its bases, as far as their source is found.

    Args:
        module: where the class is defined, or a package that takes it from one of its modules.
        name: of the class.

    Raises:
        LookupError: the source of the class or of a base is not found.

    Examples:
        >>> sorted(field_names("pluralign.training.objectives", "Entry"))
        ['module', 'product', 'stem', 'summary']
    """
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            own = {
                line.target.id
                for line in node.body
                if isinstance(line, ast.AnnAssign)
                and isinstance(line.target, ast.Name)
                and "ClassVar" not in ast.unparse(line.annotation)
            }
            return own.union(*(_of_base(module, base) for base in node.bases))
    return field_names(*_imported(module, name))


def _of_base(module: str, base: ast.expr) -> set[str]:
    if isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name):  # library.Class
        return field_names(base.value.id, base.attr)
    if not isinstance(base, ast.Name):
        raise LookupError(ast.unparse(base))
    return set() if base.id in ("NamedTuple", "object") else field_names(module, base.id)


def _imported(module: str, name: str) -> tuple[str, str]:
    """The module that a module takes a name from, and its name there."""
    parts = module.split(".") if _file(module).name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(_tree(module)):
        if not isinstance(node, ast.ImportFrom):
            continue
        above = parts[: len(parts) - node.level + 1] if node.level else []
        for alias in node.names:
            if (alias.asname or alias.name) == name:
                return ".".join([*above, *filter(None, [node.module])]), alias.name
    raise LookupError(f"{module}.{name}")


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text(encoding="utf-8"))


def _file(module: str) -> Path:
    """The source of a module; importing a submodule would run its packages."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        raise LookupError(module)
    place = Path(spec.origin).parent.joinpath(*rest)
    for file in (place / "__init__.py", place.with_suffix(".py")):
        if file.is_file():
            return file
    raise LookupError(module)
