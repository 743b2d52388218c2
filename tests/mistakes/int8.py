"""Arithmetic in int8 that is right on usual numbers only."""

from tests.mistakes.mistake import Mistake

_INT8, _ONNX = "export/forms/int8.py", "export/onnx/quantise.py"
_WEIGHT = "tests/export/test_int8.py::test_quantised_weight_is_near_and_its_neighbours_do_not_saturate"
_PRODUCT = "tests/export/test_int8.py::test_product_of_whole_steps_is_that_of_the_rounded_weight"
_DIAGONAL = "tests/export/test_int8.py::test_diagonal_is_not_rounded"

MISTAKES = [
    Mistake(
        "neighbouring weights that were both rounded up are not corrected",
        _INT8,
        "    second -= np.sign(second) * over\n",
        "",
        _WEIGHT,
    ),
    Mistake(
        "the scale of a channel looks at single weights, not at pairs",
        _INT8,
        "np.maximum(np.abs(weight).max(axis=0) / STEPS, pairs.max(axis=0) / PAIR_STEPS)",
        "np.abs(weight).max(axis=0) / STEPS",
        _WEIGHT,
    ),
    Mistake(
        "pairs are counted from the second row",
        _INT8,
        "np.arange(0, len(weight), 2)",
        "np.arange(1, len(weight), 2)",
        _WEIGHT,
    ),
    Mistake("a channel of zeros has scale 0", _INT8, "    scale[scale == 0] = 1.0\n", "", _WEIGHT),
    Mistake(
        "a row that is negative throughout has no guard behind a ReLU",
        _ONNX,
        'positive = self.node("Max", [largest.name, self.constant("nothing", np.zeros(1, np.float32))], (-1, 1))',
        "positive = largest",
        f"{_PRODUCT}[relu-onnx]",
    ),
    Mistake(
        "the steps of a ReLU's output are those of signed numbers",
        _ONNX,
        "self._to_steps(hidden, positive, 2 * STEPS + 1, 0)",
        "self._to_steps(hidden, positive, 2 * STEPS, 0)",
        f"{_PRODUCT}[relu-onnx]",
    ),
    Mistake(
        "rows are scaled to 128 and not to 127",
        _ONNX,
        "self._to_steps(x, largest, STEPS, 128), largest",
        "self._to_steps(x, largest, STEPS + 1, 128), largest",
        f"{_PRODUCT}[linear-onnx]",
    ),
    Mistake(
        "a plan does not say that a product reads a ReLU's output",
        "export/native/plan.py",
        "narrow, None, positive=True)",
        "narrow, None)",
        f"{_PRODUCT}[relu-native]",
    ),
    Mistake(
        "a row's scale is that of the whole batch",
        _ONNX,
        'largest = self.node("ReduceMax", [size.name, self.integers(-1)], (*x.shape[:-1], 1), keepdims=1)',
        'largest = self.node("ReduceMax", [size.name], (1,) * len(x.shape), keepdims=1)',
        "tests/export/test_onnx.py::test_row_does_not_depend_on_its_batch[lstm-int8-1]",
    ),
    Mistake(
        "a centre is taken off the norm's bias and does not come back in the product's",
        _ONNX,
        "(bias, bias + centre @ weight)",
        "(bias, bias)",
        "tests/export/test_onnx.py::test_int8_drift_stays_within_its_limits[gru]",
    ),
    Mistake(
        "a centre is a sum and not a mean",
        _INT8,
        "result.mean(dim=0)",
        "result.sum(dim=0)",
        "tests/export/test_onnx.py::test_int8_drift_stays_within_its_limits[gru]",
    ),
    Mistake(
        "an ONNX file is centred on random vectors, though contexts were given",
        "export/onnx/export.py",
        "Int8GraphOps(form, contexts)",
        "Int8GraphOps(form)",
        "tests/export/test_onnx.py::test_centres_change_the_drift_and_not_the_function[gru]",
    ),
    Mistake(
        "a plan is centred on random vectors, though contexts were given",
        "export/native/export.py",
        "PlanOps(form, contexts, precision=precision)",
        "PlanOps(form, None, precision=precision)",
        "tests/export/test_int8.py::test_plan_is_centred_on_the_contexts_that_it_is_given",
    ),
    Mistake(
        "a diagonal is left out and not added again",
        _ONNX,
        "            result = self.add(result, part)\n",
        "",
        f"{_DIAGONAL}[linear-onnx]",
    ),
    Mistake(
        "a diagonal behind a ReLU multiplies what came before it",
        _ONNX,
        'self.node("Relu", [hidden.name], hidden.shape), narrow)',
        "hidden, narrow)",
        f"{_DIAGONAL}[relu-onnx]",
    ),
    Mistake(
        "what rounding left of a last product is computed and not added",
        "export/native/plan.py",
        "addend = self._product(x, left, weights, addend, positive)",
        "self._product(x, left, weights, addend, positive)",
        "tests/export/test_int8.py::test_weights_that_pass_on_what_they_get_do_not_drift[lstm-native]",
    ),
]
