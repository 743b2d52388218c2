import mmap
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

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
    def __new__(cls, file: bytes | mmap.mmap, path: str = "", threads: int = 1) -> Engine: ...
    @property
    def about(self) -> About: ...
    def run(
        self,
        input: NDArray[np.float32],
        prediction: NDArray[np.float32],
        attention: NDArray[np.float32] | None = None,
        largest_norm: float | None = None,
    ) -> bool: ...
    def profile(self, input: NDArray[np.float32], prediction: NDArray[np.float32]) -> list[tuple[str, float]]: ...

def paths() -> list[str]: ...
def spin(path: str, rounds: int) -> int: ...
