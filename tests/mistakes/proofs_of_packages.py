"""Proofs of a Core ML package that show less than they say."""

from tests.mistakes.mistake import Mistake

_PROVE = "export/coreml/prove.py"
_FORM = "tests/export/coreml/test_prove.py::test_form_that_is_wrong_in_one_way_only_is_refused"
_PACKAGE = "tests/export/coreml/test_prove.py::test_package_that_is_wrong_in_one_way_only_is_refused"
_SIZES = "tests/export/coreml/test_prove.py::test_mistake_in_one_batch_size_is_found"
_ROUNDED = "tests/export/coreml/test_prove.py::test_results_that_rounding_spoils_are_refused"
_TOO_LONG = "tests/export/coreml/test_prove.py::test_compressed_package_whose_answers_are_too_long_is_refused"
_ON_A_MAC = "tests/export/coreml/test_prove.py::test_what_core_ml_does_on_a_mac_counts"

MISTAKES = [
    Mistake(
        "the inputs of the form's proof are of the usual size only",
        _PROVE,
        "FORM_SCALES = (1, 30)",
        "FORM_SCALES = (1,)",
        f"{_FORM}[large inputs]",
    ),
    Mistake(
        "the form's proof leaves attention out",
        _PROVE,
        "            if attention is not None:\n                worst",
        "            if attention is None:\n                worst",
        f"{_FORM}[attention]",
    ),
    Mistake(
        "the form's proof runs the first batch size only",
        _PROVE,
        "        for size in functions:\n            batch",
        "        for size in list(functions)[:1]:\n            batch",
        _SIZES,
    ),
    Mistake(
        "the exact difference of a package is not judged",
        _PROVE,
        '    require(proof.exact_difference, exact, "the largest difference of the package in float64", _REMEDY)\n',
        "",
        f"{_PACKAGE}[components]",
    ),
    Mistake(
        "the rounded difference of a package is not judged",
        _PROVE,
        '    require(proof.largest_difference, rounded, "the largest difference of the package, rounded,", _REMEDY)\n',
        "",
        _ROUNDED,
    ),
    Mistake(
        "a package's drift is not judged",
        _PROVE,
        '    require(proof.worst_drift, 1.0 - COSINE_LIMIT, "drift (1 - cosine) from the training form", _REMEDY)\n',
        "",
        f"{_PACKAGE}[a row beyond the batch]",
    ),
    Mistake(
        "the limit of rounded results is ten times wider",
        _PROVE,
        "ROUNDED_LIMIT = 5e-4",
        "ROUNDED_LIMIT = 5e-3",
        _ROUNDED,
    ),
    Mistake(
        "the limit of rounded weights is ten times wider",
        _PROVE,
        "WEIGHTS_LIMIT = 2e-4",
        "WEIGHTS_LIMIT = 2e-3",
        f"{_PACKAGE}[components]",
    ),
    Mistake(
        "the limit of a form is ten times wider",
        _PROVE,
        "FORM_LIMIT = 2e-6",
        "FORM_LIMIT = 2e-5",
        f"{_FORM}[small difference]",
    ),
    Mistake(
        "rounding may make any drift of a form at the median",
        _PROVE,
        "    require(median, FORM_DRIFT",
        "    require(0.0, FORM_DRIFT",
        "tests/export/coreml/test_prove.py::test_form_that_is_off_by_more_than_rounding_is_refused",
    ),
    Mistake(
        "the limits widen for vectors of every size",
        _PROVE,
        "max(1.0, (LIMITS_AT / samples[0].contexts.shape[2]) ** 0.5)",
        "10.0",
        f"{_PACKAGE}[components]",
    ),
    Mistake(
        "Core ML's own drift on a Mac is not judged",
        _PROVE,
        "    if proof.core_ml_drift is not None:\n        require",
        "    if False:\n        require",
        _ON_A_MAC,
    ),
    Mistake(
        "Core ML's own drift on a Mac is not measured",
        _PROVE,
        '_by_core_ml(package, options, samples) if platform.system() == "Darwin" else None',
        "None",
        _ON_A_MAC,
    ),
    Mistake(
        "Core ML's own drift of a compressed package is not judged",
        _PROVE,
        "max(proof.worst_drift, proof.core_ml_drift or 0.0)",
        "proof.worst_drift",
        _ON_A_MAC,
    ),
    Mistake(
        "Core ML's own drift is measured at one batch size",
        _PROVE,
        "for s in samples for size in options.functions]",
        "for s in samples for size in (max(options.functions),)]",
        _ON_A_MAC,
    ),
    Mistake(
        "Core ML's own drift is not what the manifest lists",
        "export/coreml/export.py",
        "proof.worst_drift if proof.core_ml_drift is None else max(proof.worst_drift, proof.core_ml_drift)",
        "proof.worst_drift",
        _ON_A_MAC,
    ),
    Mistake(
        "only the first sample of a package is compared",
        _PROVE,
        "            for sample in samples:\n                differences",
        "            for sample in samples[:1]:\n                differences",
        f"{_PACKAGE}[second sample]",
    ),
    Mistake(
        "a package runs the first batch size only",
        _PROVE,
        'list(functions)[: 1 if mode == "narrow" else None]',
        "list(functions)[:1]",
        _SIZES,
    ),
    Mistake(
        "a package's attention is not compared",
        _PROVE,
        "    if sample.attention is not None:\n        off",
        "    if sample.attention is None:\n        off",
        f"{_PACKAGE}[attention]",
    ),
    Mistake(
        "what a search finds with a package is not judged",
        _PROVE,
        'return replace(proof, search=search(rounded, samples, "coreml"))',
        "return proof",
        "tests/export/coreml/test_prove.py::test_package_has_to_find_what_the_training_form_finds",
    ),
    Mistake(
        "a compressed package's form is not proved, but the package itself",
        "export/coreml/export.py",
        'if options.precision == "fp32" and options.compress == "none":',
        'if options.compress == "none":',
        "tests/export/coreml/test_export.py::test_samples_of_a_real_artifact_are_used",
    ),
    Mistake(
        "a prediction of a compressed Core ML package may have any length",
        _PROVE,
        "require(longer, LENGTH_LIMIT",
        "require(0.0, LENGTH_LIMIT",
        _TOO_LONG,
    ),
]
