"""Log filter-bank energies of a signal with Kaldi's conventions, jittable; the constants come as arrays."""

import jax
import jax.numpy as jnp
import numpy as np

FLOOR = 1.1920929e-7  # float32's epsilon: Kaldi's smallest energy


def log_filterbank(
    signal: jax.Array | np.ndarray, window: np.ndarray, weights: np.ndarray, shift: int, preemphasis: float = 0.97
) -> jax.Array:
    """signal: (..., samples) -> (..., frames, bands) in float32, frames = 1 + (samples - width) // shift.

    window: (width,); weights: (bands, size / 2), a filter per row over the bins of a `size`-point transform without the
    last; NumPy float64 arrays, as `sounds.waveforms.FilterBank` makes them, the same function in float64. shift:
    samples from frame to frame. Each frame loses its mean, is pre-emphasized (its first sample with itself) and
    windowed; energies below `FLOOR` are raised to it. Nothing is centred or padded; the tail that fills no frame is
    dropped. Source: Kaldi's compute-fbank-feats, as torchaudio's compliance.kaldi.fbank computes it.
    """
    width, half = len(window), weights.shape[-1]
    samples = signal.shape[-1]
    if samples < width:
        raise ValueError(f"a signal of {samples} samples has no frame of {width}; pad it.")
    starts = shift * np.arange(1 + (samples - width) // shift)
    frames = jnp.asarray(signal, jnp.float32)[..., starts[:, None] + np.arange(width)]
    frames = frames - jnp.mean(frames, axis=-1, keepdims=True)
    # Pre-emphasis, window and transform as one matrix: it rounds half as much as an FFT does, which shows beside a
    # loud tone, and suits matrix units.
    emphasis = np.eye(width) - preemphasis * np.eye(width, k=-1)
    emphasis[0, 0] -= preemphasis
    angles = (np.arange(width)[:, None] * np.arange(half)) % (2 * half) * (np.pi / half)
    real, imaginary = (emphasis.T @ (window[:, None] * wave(angles)) for wave in (np.cos, np.sin))
    power = jnp.square(_matmul(frames, real)) + jnp.square(_matmul(frames, imaginary))
    return jnp.log(jnp.maximum(_matmul(power, weights.T), FLOOR))


def _matmul(x: jax.Array, constants: np.ndarray) -> jax.Array:
    return jnp.matmul(x, jnp.asarray(constants, jnp.float32), precision=jax.lax.Precision.HIGHEST)
