"""The Python that runs in a box: which files it needs, and whether a stranger may read them."""

import os
import stat
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Runtime:
    """One interpreter outside any virtual environment."""

    prefix: Path
    executable: Path
    paths: tuple[Path, ...]
    """What must be seen beside the system's own folders: executable, library, standard library."""
    packages: Path
    """Installed packages, which a program in a box has no business with."""

    @property
    def reachable(self) -> bool:
        """Whether a user who is nobody in particular can read every path."""
        return all(_open_to_others(path) for path in self.paths)


def this_runtime() -> Runtime:
    """The interpreter that this process runs on, so that a box has the same Python."""
    prefix = Path(sys.base_prefix).resolve()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    executable = (prefix / "bin" / version).resolve()
    library = Path(sysconfig.get_path("stdlib")).resolve()
    shared = sorted((prefix / "lib").glob("libpython*.so*"))
    paths = (executable, *shared, library)
    outside_usr = tuple(path for path in paths if not path.is_relative_to("/usr"))
    return Runtime(prefix, executable, outside_usr, library / "site-packages")


def _open_to_others(path: Path) -> bool:
    needed = [(path, stat.S_IROTH), *((parent, stat.S_IXOTH) for parent in path.parents)]
    return all(os.stat(p).st_mode & bit for p, bit in needed)  # noqa: PTH116 - one call, one mode
