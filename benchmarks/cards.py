"""What GPUs can compute at most: their makers' data sheets, dense, without sparsity, in TFLOP/s."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Peaks:
    """By how a product is computed; None where the card has no units for it."""

    fp32: float
    tf32: float | None
    half: float  # fp16, and bf16 where the card has it


# The first whose name is part of what CUDA calls the card.
PEAKS = {
    "H100 PCIe": Peaks(51, 378, 756),
    "H100 NVL": Peaks(60, 417, 835),
    "H100": Peaks(67, 494, 989),
    "H200": Peaks(67, 494, 989),
    "GH200": Peaks(67, 494, 989),
    "B200": Peaks(75, 1125, 2250),
    "A100": Peaks(19.5, 156, 312),
    "A30": Peaks(10.3, 82, 165),
    "A40": Peaks(37.4, 74.8, 149.7),
    "A10": Peaks(31.2, 62.5, 125),
    "L40S": Peaks(91.6, 183, 362),
    "L4": Peaks(30.3, 60, 121),
    "V100": Peaks(15.7, None, 125),
    "T4": Peaks(8.1, None, 65),
    "RTX 4090": Peaks(82.6, 82.6, 165.2),
    "RTX 3090": Peaks(35.6, 35.6, 71),
    "MI300X": Peaks(163.4, 653.7, 1307),
    "MI250X": Peaks(23.9, None, 191.5),  # of one of its two dies, which is a device
}


def peak_tflops(card: str, precision: str, *, tf32: bool) -> float | None:
    """Return the card's peak for a recipe's precision; None of a card that is not in the list."""
    found = next((peaks for name, peaks in PEAKS.items() if name in card), None)
    if found is None:
        return None
    if precision != "fp32":
        return found.half
    return (found.tf32 if tf32 else None) or found.fp32
