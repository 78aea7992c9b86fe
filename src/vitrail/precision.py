"""bf16 where it is fast: on GPUs, and on processors with instructions for it; elsewhere it is many times slower."""

import torch

_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16")


def fast_bf16(device: torch.device) -> bool:
    """Tell whether a device multiplies bf16 matrices faster than float32 ones."""
    if device.type != "cpu":
        return True
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in _INSTRUCTIONS)


def autocast(device: torch.device) -> torch.autocast:
    """Return a context in which matrix products and convolutions are in bf16 if that is fast."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device))
