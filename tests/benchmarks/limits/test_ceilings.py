"""The ceilings: what each library multiplies is right, and the right ceiling is looked up."""

from __future__ import annotations

import pytest

from benchmarks.limits.ceilings import MIB, Bandwidth, Ceilings, Product, measure
from benchmarks.limits.products import cpu_products


def test_products_multiply() -> None:
    """Every fp32 side multiplies the same two matrices."""
    import numpy as np

    sides = {key: call() for key, call in cpu_products(64).items() if key[1] == "fp32"}
    first = sides["cpu", "fp32", "numpy"]
    for key, result in sides.items():
        other = result[0] if key[2] in ("onnxruntime", "openvino") else np.asarray(result)
        np.testing.assert_allclose(other, first, atol=1e-4, err_msg=str(key))


def test_int8_products_multiply() -> None:
    """onnxruntime is handed the integers, OpenVINO makes the same ones itself."""
    import numpy as np

    sides = cpu_products(64)
    np.testing.assert_allclose(*(sides["cpu", "int8", name]()[0] for name in ("onnxruntime", "openvino")), atol=1e-4)


def test_measured_ceilings_are_the_best_of_their_libraries() -> None:
    ceilings = measure(widths=(32, 64), rounds=2, seconds=0.001)
    kinds = {(p.device, p.precision) for p in ceilings.products}
    assert {("cpu", "fp32"), ("cpu", "int8"), ("cpu", "bf16")} <= kinds
    for product in ceilings.products:
        assert product.giga_macs_per_second == max(product.others.values()) > 0
        assert product.others[product.library] == product.giga_macs_per_second
    assert [b.bytes for b in ceilings.bandwidths] == [2 * MIB, 8 * MIB]


def test_the_integer_limit_is_above_every_library() -> None:
    engine = pytest.importorskip("lvm_runtime.native._engine", reason="the extension is not built")

    def best() -> str:
        products = measure(widths=(256,), rounds=3, seconds=0.002).products
        return next(product.library for product in products if product.precision == "int8")

    assert any(best().startswith("registers, ") for _ in range(5))  # another program may take the CPU from one of them
    with pytest.raises(ValueError, match="plain"):
        engine.spin("mmx", 1)


def test_look_ups() -> None:
    bandwidths = (Bandwidth(2 * MIB, 100.0, "numpy"), Bandwidth(32 * MIB, 20.0, "numpy"))
    ceilings = Ceilings((Product("cpu", "fp32", 90.0, "numpy", {}),), bandwidths)
    assert ceilings.product_rate("cpu", "fp32") == pytest.approx(90e9)
    assert ceilings.product_rate("cuda", "fp32") is None
    assert [ceilings.bandwidth(n * MIB) / 1e9 for n in (1, 2, 3, 32, 500)] == [100, 100, 20, 20, 20]
