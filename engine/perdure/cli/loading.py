"""`module:app` to the app itself. What is wrong is said in the words of whoever typed it."""

import importlib
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from perdure.cli.exits import UsageProblem
from perdure.errors import PerdureError
from perdure.sdk.app import App


class BrokenApp(PerdureError):
    """The user's module could not be imported: the message has its traceback."""


def load_app(target: str) -> App:
    """Imports the module (the current folder comes first on `sys.path`) and gives its app.

    Raises `UsageProblem` for what was mistyped, `BrokenApp` for what fails in the module.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    name, _, attribute = target.partition(":")
    if not attribute or not all(part.isidentifier() for part in name.split(".")):
        raise UsageProblem(_not_a_target(target))
    module = _import(name)
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if isinstance(found, App):
        return found
    what = "there is none of that name" if found is None else f"it is a {type(found).__name__}, not a perdure.App"
    raise UsageProblem(f"{target}: {what}; {_apps_of(module, name)}")


def _not_a_target(target: str) -> str:
    name, _, attribute = target.partition(":")
    if name.endswith(".py") or "/" in name:
        path = Path(name).with_suffix("")
        dotted = ".".join(part for part in path.parts if part not in (".", "/"))
        return f"{target!r} is a file; say the module: did you mean {dotted}:{attribute or 'app'}?"
    if not attribute and all(part.isidentifier() for part in name.split(".")):
        return f"{target!r} names no app: did you mean {name}:app?"
    return f"{target!r}: say module:app, such as shop:app for `app = App(…)` in shop.py"


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise UsageProblem(_no_module(name, error.name)) from None
        raise BrokenApp(_story(name, error)) from error
    except PerdureError:
        raise
    except (Exception, SystemExit) as error:
        raise BrokenApp(_story(name, error)) from error


def _no_module(name: str, missing: str) -> str:
    folder = Path.cwd().joinpath(*missing.split(".")[:-1])
    near = sorted(
        {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    )
    close = get_close_matches(missing.rpartition(".")[2], near, 1)
    there = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(near[:10]) or 'no Python files'}"
    return f"there is no module {missing!r}: modules are looked for in {folder}, then as installed; {there}"


def _apps_of(module: ModuleType, name: str) -> str:
    apps = [f"{name}:{key}" for key, value in vars(module).items() if isinstance(value, App)]
    if not apps:
        return f"{name} has no App: write app = App('{name.rpartition('.')[2]}')"
    return f"did you mean {' or '.join(apps)}?"


def _story(name: str, error: BaseException) -> str:
    """The traceback from the user's first frame on, without the import machinery."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "importlib" not in frame.filename and frame.filename != __file__]
    lines = [*traceback.format_list(own), *traceback.format_exception_only(error)]
    return f"importing {name} failed:\n" + "".join(lines).rstrip()


def outside_folders(here: Path) -> list[str]:
    """Folders of the imported modules that are neither below `here` nor installed: their changes count as well."""
    installed = {Path(path).resolve() for path in (sys.prefix, sys.base_prefix)}
    found: set[Path] = set()
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if not isinstance(path, str) or module.__name__.partition(".")[0].startswith("perdure"):
            continue
        folder = Path(path).resolve().parent
        if not folder.is_relative_to(here) and not any(folder.is_relative_to(one) for one in installed):
            found.add(folder)
    return sorted(str(folder) for folder in found if not any(other in folder.parents for other in found))
