"""What `beam_quad` refuses, as a tree.

BeamQuadError
├── UsageError          a command that cannot be carried out as given; exit code 2, nothing written
│   ├── DeviceError     the device that was asked for is not there
│   └── LockedError     another run owns the output directory
├── BadFileError        an input file turned out unreadable after it was planned
└── IntegrityError      the run's own checks do not hold; the result must not be trusted
"""

BAD_FILE_REMEDY = "repair the file, or pass --on_bad_file=reject to leave it out"


class BeamQuadError(Exception):
    """Base of every error that a caller of `beam_quad` may want to catch; its message is one line."""

    def __init__(self, message: str = "") -> None:
        # Names of files may hold line ends.
        super().__init__(message.replace("\r", "\\r").replace("\n", "\\n"))


class UsageError(BeamQuadError):
    """A command that cannot be carried out as given. The message is one line and says what to do."""


class DeviceError(UsageError):
    """The device that was asked for is not there. There is no silent fallback."""


class LockedError(UsageError):
    """Another run owns the output directory."""


class BadFileError(BeamQuadError):
    """An input file that was listed when planning turned out truncated or unreadable.

    Attributes:
      path: The file.
      detail: What was wrong with it, in one line.
    """

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path}: {detail}; {BAD_FILE_REMEDY}")
        self.path = path
        self.detail = detail

    def __reduce__(self) -> tuple[type["BadFileError"], tuple[str, str]]:
        return (BadFileError, (self.path, self.detail))


class IntegrityError(BeamQuadError):
    """A check that must hold at the end of a run does not hold."""
