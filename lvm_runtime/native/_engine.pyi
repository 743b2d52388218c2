from typing import TypedDict

from typing_extensions import Buffer

class FileError(ValueError): ...

class About(TypedDict):
    architecture: str
    form: str
    precision: str
    context_length: int
    dim: int
    path: str
    instructions: str
    threads: int
    has_attention: bool

class Engine:
    def __new__(cls, file: Buffer, path: str = "", threads: int = 1) -> Engine: ...
    @property
    def about(self) -> About: ...
    def run(self, input: Buffer, prediction: Buffer, attention: Buffer | None = None) -> None: ...

def paths() -> list[str]: ...
