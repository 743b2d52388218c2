"""Which forms of an artifact could serve a request, and why the others could not.

Nothing is loaded here: what the manifest and the list of backends say is enough to rule most forms out.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lvm_runtime.artifact.drift import PRECISIONS
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.base import Backend
from lvm_runtime.backends.registry import BACKENDS, backend_class
from lvm_runtime.contexts import UNIT_NORM
from lvm_runtime.errors import ArtifactError, BackendUnavailable
from lvm_runtime.request import AUTO, Request

SMALLEST_REDUCED_DRIFT = 2e-6
"""Below this no reduced arithmetic is worth trying: bfloat16 and int8 were never measured under 6e-6."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run the model: a backend on a device with one of the artifact's files (or its weights) as `source`.

    `file` is the path inside the artifact. `drift` and `largest_norm` are what the manifest says was measured when the
    file was made; a model trained on unit vectors takes no longer ones. `drift` is None for arithmetic that only the
    runtime adds, and `largest_norm` None where only the backend's own limit counts.
    """

    backend: str
    device: str
    precision: str
    source: Path
    file: str
    drift: float | None
    batch_sizes: tuple[int, ...] | None = None
    largest_norm: float | None = None

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What tells it from the other candidates of its artifact."""
        return self.backend, self.device, self.precision, self.file

    @property
    def light(self) -> bool:
        """Whether it can be tried without loading a heavy framework."""
        return backend_class(self.backend).light

    def check(self, artifact: Artifact) -> None:
        """Compare its file with the hash in the manifest; ArtifactError if it differs.

        Except for the weights, which `load_model` compares when it reads them: once is enough for what may be large.
        """
        if backend_class(self.backend).format is not None:
            artifact.check_file(self.file)

    def __str__(self) -> str:
        device = "" if self.device == AUTO else f" on {self.device}"
        return f"{self.backend} {self.precision}{device} ({self.file})"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A form or backend that was ruled out, and why."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


def list_candidates(artifact: Artifact, request: Request) -> tuple[list[Candidate], list[Refusal]]:
    """Return the candidates for `request`, the most precise first, and the refusals.

    Raises BackendUnavailable if a backend that was asked for by name cannot run here, and ArtifactError with the
    command to run if the artifact has no form of a backend or precision that was asked for by name.
    """
    if request.backend != AUTO:
        backend_class(request.backend).require()
    names = list(BACKENDS) if request.backend == AUTO else [request.backend]
    forms = [form for name in names for form in _forms(artifact, name, request)]
    if request.precision is not None:
        forms = [form for form in forms if form.precision == request.precision]
    if not forms:
        raise _nothing(artifact, request)
    candidates, refused = [], []
    for form in forms:
        problem = backend_class(form.backend).missing() or _holds_code(form, request) or _over_limit(form, request)
        if problem:
            refused.append(Refusal(str(form), problem))
        else:
            candidates.append(form)
    candidates.sort(key=lambda form: PRECISIONS.index(form.precision))  # stable: backends keep their order
    if request.backend != AUTO and request.precision is None and request.max_drift is None:
        # nothing was said of accuracy: the most precise form of the backend, and not a faster one
        candidates = [form for form in candidates if form.precision == candidates[0].precision]
    return candidates, refused


def _holds_code(form: Candidate, request: Request) -> str | None:
    if request.backend != AUTO or not backend_class(form.backend).holds_code:
        return None
    return f"its file can hold code; if you trust whoever made it, ask for it by name: backend {form.backend}"


def _over_limit(form: Candidate, request: Request) -> str | None:
    limit = request.drift_limit(form.precision)
    if form.drift is None:
        return f"{form.precision} arithmetic drifts by more than {limit:g}" if limit < SMALLEST_REDUCED_DRIFT else None
    return f"its measured drift {form.drift:.1e} is over {limit:g}" if form.drift > limit else None


def _forms(artifact: Artifact, backend: str, request: Request) -> list[Candidate]:
    cls = backend_class(backend)
    devices = [request.device]
    if request.backend == AUTO and request.device == AUTO and cls.light and not cls.missing():
        with suppress(BackendUnavailable):  # its framework is broken: it is ruled out when it is opened
            devices = cls.devices()
    forms = []
    for made, device in itertools.product(_as_made(artifact, cls), devices):
        here = replace(made, device=device)
        if cls.precisions is None:
            forms.append(here)
        elif made.precision == "fp32":
            for precision in cls.precisions:
                forms.append(replace(here, precision=precision, drift=made.drift if precision == "fp32" else None))
    return forms


def _as_made(artifact: Artifact, cls: type[Backend]) -> list[Candidate]:
    """Return what the artifact has for a backend, in the precision that it was made in and on any device."""
    if cls.format is None:
        made = [Candidate(cls.name, AUTO, "fp32", artifact.path, artifact.manifest.weights.path, 0.0)]
    else:
        made = [
            Candidate(
                backend=cls.name,
                device=AUTO,
                precision=compiled.precision,
                source=artifact.file(compiled),
                file=compiled.file.path,
                drift=compiled.drift,
                batch_sizes=compiled.batch_sizes,
                largest_norm=compiled.largest_norm,
            )
            for compiled in artifact.find(cls.format)
        ]
    if not artifact.manifest.takes_unit_vectors:
        return made
    return [replace(form, largest_norm=min(form.largest_norm or UNIT_NORM, UNIT_NORM)) for form in made]


def _nothing(artifact: Artifact, request: Request) -> ArtifactError:
    named = request.backend != AUTO
    cls = backend_class(request.backend) if named else _maker(request.precision)
    if named and cls.precisions is not None:
        cls.arithmetic(request.precision)  # says what it computes in, if that is the problem
    wanted = " ".join(filter(None, (cls.name if named else "", request.precision or "")))
    forms = dict.fromkeys(f"{c.format} {c.precision}" for c in artifact.manifest.compiled)
    present = ", ".join(forms) or "no compiled form"
    in_file = cls.precisions is None  # and not the arithmetic that is chosen when an fp32 file is loaded
    said = f"{artifact.path} has no {wanted} form (it has {present})"
    if in_file and request.precision is not None and request.precision not in cls.exports:
        makes = " or ".join(cls.exports)
        return ArtifactError(f"{said}, and no export makes one; lvm-runtime export {cls.format} makes {makes}")
    option = cls.exports.get(request.precision or "", "") if in_file else ""
    return ArtifactError(f"{said}; make one with: lvm-runtime export {cls.format} --model {artifact.path}{option}")


def _maker(precision: str | None) -> type[Backend]:
    """Return the backend to make a form of `precision` for, where none was named: if possible one that runs here."""
    able = [
        cls
        for cls in map(backend_class, BACKENDS)
        if cls.format and not cls.holds_code and precision in (None, *(cls.precisions or cls.exports))
    ]
    return next((cls for cls in able if not cls.missing()), able[0])
