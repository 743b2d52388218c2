"""Arithmetic in int8 that is right on usual numbers only."""

from tests.mistakes.mistake import Mistake

_INT8, _ROUNDING, _REFINE = "export/forms/int8.py", "export/forms/rounding.py", "export/forms/refinements.py"
_SENSITIVITY, _ONNX, _PLAN = "export/forms/sensitivity.py", "export/onnx/quantise.py", "export/native/plan.py"
_WEIGHT = "tests/export/test_int8.py::test_quantised_weight_is_near_and_its_neighbours_do_not_saturate"
_PRODUCT = "tests/export/test_int8.py::test_product_of_whole_steps_is_that_of_the_rounded_weight"
_LEFT = "tests/export/test_int8.py::test_what_rounding_left_of_some_columns_is_added"
_REFINED = "tests/export/test_int8.py::test_refined_products_drift_less"
_CHOICE = "tests/export/test_int8.py::test_only_what_makes_the_drift_is_refined"
_DIAGONAL = "tests/export/test_int8.py::test_diagonal_is_not_rounded"

MISTAKES = [
    Mistake(
        "neighbouring weights that were both rounded up are not corrected",
        _ROUNDING,
        "    second -= np.sign(second) * over\n",
        "",
        _WEIGHT,
    ),
    Mistake(
        "the scale of a channel looks at single weights, not at pairs",
        _ROUNDING,
        "np.maximum(np.abs(weight).max(axis=0) / STEPS, pairs.max(axis=0) / PAIR_STEPS)",
        "np.abs(weight).max(axis=0) / STEPS",
        _WEIGHT,
    ),
    Mistake(
        "pairs are counted from the second row",
        _ROUNDING,
        "np.arange(0, len(weight), 2)",
        "np.arange(1, len(weight), 2)",
        _WEIGHT,
    ),
    Mistake("a channel of zeros has scale 0", _ROUNDING, "    scale[scale == 0] = 1.0\n", "", _WEIGHT),
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
        "self._to_steps(x, positive, 2 * STEPS + 1, 0)",
        "self._to_steps(x, positive, 2 * STEPS, 0)",
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
        _PLAN,
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
        "            result = self.add(result, self._pad(part, start, result.width))\n",
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
        _PLAN,
        "addend = self._product(x, self._like(part), weights, addend, positive)",
        "self._product(x, self._like(part), weights, addend, positive)",
        "tests/export/test_int8.py::test_weights_that_pass_on_what_they_get_do_not_drift[lstm-native]",
    ),
    Mistake(
        "what rounding left of some columns is added to the first ones",
        _ONNX,
        "self.integers(start, width - start - part.width)",
        "self.integers(0, width - part.width)",
        f"{_LEFT}[8-linear-onnx]",
    ),
    Mistake(
        "what rounding left of some columns is sought among all",
        _ROUNDING,
        "return columns(term, start - at, stop - at)",
        "return columns(term, start, stop)",
        f"{_LEFT}[8-linear-native]",
    ),
    Mistake(
        "the rows' negative halves are added and not taken off",
        _PLAN,
        'Operation("sub", {"x": first, "y": second}',
        'Operation("add", {"x": first, "y": second}',
        f"{_REFINED}[amn-native]",
    ),
    Mistake(
        "rows are halved with their centre on",
        _PLAN,
        'rows = self._write("sub", {"x": x}, {"y": shared["centre"]}) if shared else x',
        "rows = x",
        f"{_REFINED}[amn-native]",
    ),
    Mistake(
        "a bias is added with each of the terms",
        _PLAN,
        "weights, own = weights | own, {}",
        "weights = weights | own",
        f"{_REFINED}[gru-native]",
    ),
    Mistake(
        "the products that share a weight are taken to err by chance",
        _SENSITIVITY,
        "moved[key] = moved.get(key, 0) + blocks",
        "moved[key] = (moved.get(key, torch.zeros(())).square() + blocks.square()).sqrt()",
        "tests/export/test_int8.py::test_estimate_is_the_drift_that_errors_cause[lstm]",
    ),
    Mistake(
        "drift is estimated on predictions that have a length",
        _SENSITIVITY,
        "        y = TorchOps().normalise(y)\n",
        "",
        "tests/export/test_int8.py::test_estimate_is_the_drift_that_errors_cause[product]",
    ),
    Mistake(
        "what saves the least is refined first",
        _REFINE,
        "key=lambda r: -r.worth",
        "key=lambda r: r.worth",
        _CHOICE,
    ),
    Mistake(
        "a form that drifts little is refined",
        _REFINE,
        "    if total <= TOLERATED:\n        return\n",
        "",
        _CHOICE,
    ),
    Mistake("refinements cost what they like", _REFINE, "or refinement.cost > budget", "", _CHOICE),
    Mistake(
        "the norm of int8 is not bounded by its drift",
        "export/norms.py",
        "> DRIFT_LIMITS[precision]:",
        "> 1:",
        "tests/export/test_norms.py::test_int8_records_the_norm_up_to_which_it_stays_within_its_limit[transformer-native]",
    ),
    Mistake(
        "the norm of int8 is measured where all vectors are as long",
        "export/norms.py",
        "    longer[1::3, -1:] = contexts[1::3, -1:]\n",
        "",
        "tests/export/test_norms.py::test_int8_records_the_norm_up_to_which_it_stays_within_its_limit[gru-native]",
    ),
    Mistake(
        "the norm of int8 is measured on a few contexts alone",
        "export/norms.py",
        "while scale > 1 and not",
        "while False and not",
        "tests/export/test_norms.py::test_int8_records_the_norm_up_to_which_it_stays_within_its_limit[amn-native]",
    ),
    Mistake(
        "the norm of int8 is not bounded by its attention",
        "export/norms.py",
        "return off <= ATTENTION_LIMITS[precision]",
        "return True",
        "tests/export/test_norms.py::test_int8_records_the_norm_up_to_which_it_stays_within_its_limit[amn-native]",
    ),
]
