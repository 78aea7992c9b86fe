"""How far a decoded picture is from its original; both are uint8 RGB arrays (H, W, 3) of one shape."""

import numpy as np
import numpy.typing as npt
import pytorch_msssim
import torch

PSNR_CAP = 100.0
"""dB. Stands for the infinite PSNR of equal pictures, which JSON cannot hold."""

MS_SSIM_MIN_SIDE = 161
"""Pixels. Four halvings must leave the smallest scale wider than the window of 11 samples."""

Pixels = npt.NDArray[np.uint8]


def psnr(a: Pixels, b: Pixels) -> float:
    """Give the peak signal-to-noise ratio over all RGB samples, in dB, at most `PSNR_CAP`."""
    mse = float(np.mean(np.square(a.astype(np.float32) - b.astype(np.float32)), dtype=np.float64))
    return PSNR_CAP if mse == 0 else min(PSNR_CAP, 10 * float(np.log10(255**2 / mse)))


@torch.inference_mode()
def ms_ssim(a: Pixels, b: Pixels) -> float | None:
    """Give the five-scale MS-SSIM over RGB, in [0, 1] with 1 for equal pictures (Wang et al., 2003).

    None where a side is below `MS_SSIM_MIN_SIDE`: the five-scale form does not exist there, and one of fewer
    scales could not be compared with published values.
    """
    if min(a.shape[:2]) < MS_SSIM_MIN_SIDE:
        return None
    x, y = (torch.tensor(pixels).permute(2, 0, 1)[None].float() for pixels in (a, b))  # (1, 3, H, W)
    return float(pytorch_msssim.ms_ssim(x, y, data_range=255))
