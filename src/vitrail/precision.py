"""bf16 where it is fast: on most GPUs, and on processors with instructions for it; elsewhere it is far slower."""

import torch

_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16")


def fast_bf16(device: torch.device | None = None) -> bool:
    """Tell whether a device, by default the one that training takes, multiplies bf16 faster than float32."""
    kind = (device or torch.accelerator.current_accelerator() or torch.device("cpu")).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return True
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in _INSTRUCTIONS)


def autocast(device: torch.device) -> torch.autocast:
    """Return a context in which matrix products and convolutions are in bf16 if that is fast."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device))
