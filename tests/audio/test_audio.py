"""Sound: files as they were written, rates by the definition of a tone, features as the field computes them."""

import math
import struct
import wave

import pytest
import torch

from attnlib.audio import LogMel, mel_filters, read_wav, resample
from attnlib.errors import DataError, LayoutError, UsageError

torch.set_num_threads(1)


def write(path, data, *, width=2, channels=1, rate=8000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)
    return path


def tone(hertz, rate, samples):
    return torch.sin(2 * math.pi * hertz / rate * torch.arange(samples, dtype=torch.float64)).float()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_samples_of_every_width_are_read_as_fractions(tmp_path, width):
    top = 2 ** (8 * width - 1)
    values = [0, top - 1, -top, 1, -1, top // 2]
    data = b"".join((v + (128 if width == 1 else 0)).to_bytes(width, "little", signed=width > 1) for v in values)
    samples, rate = read_wav(write(tmp_path / "a.wav", data, width=width, rate=11025))
    assert rate == 11025 and samples.shape == (1, 6)
    assert samples[0].tolist() == [torch.tensor(v / top).item() for v in values]


def test_channels_lie_apart_and_a_file_that_ends_early_is_read_to_its_last_whole_frame(tmp_path):
    path = write(tmp_path / "a.wav", b"".join(v.to_bytes(2, "little", signed=True) for v in (1, 2, 3, 4, 5, 6)), channels=2)
    assert (read_wav(path)[0] * 32768).tolist() == [[1, 3, 5], [2, 4, 6]]
    path.write_bytes(path.read_bytes()[:-3])
    assert (read_wav(path)[0] * 32768).tolist() == [[1, 3], [2, 4]]
    assert read_wav(write(path, b"", channels=2))[0].shape == (2, 0)


def header(kind, bits, *, channels=1, rate=8000, size=0, extensible=False):
    """A WAV file's head up to its samples, of which it says that there are `size` bytes."""
    tag = 0xFFFE if extensible else kind
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * channels * bits // 8, channels * bits // 8, bits)
    if extensible:
        form += struct.pack("<HHIH", 22, bits, 0, kind) + bytes(14)
    parts = b"LIST" + struct.pack("<I", 3) + b"abc\0" + b"fmt " + struct.pack("<I", len(form)) + form
    return b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + b"WAVE" + parts + b"data" + struct.pack("<I", size)


@pytest.mark.parametrize("extensible", [False, True])
def test_floats_and_wide_samples_are_read_whatever_header_they_have(tmp_path, extensible):
    path, values = tmp_path / "a.wav", [0.25, -1.5, 0.0, float("nan"), 0.5, 1.0]
    for bits, kind in ((32, "f"), (64, "d")):
        path.write_bytes(header(3, bits, channels=2, size=len(values) * bits // 8, extensible=extensible)
                         + struct.pack(f"<6{kind}", *values))  # fmt: skip
        samples, rate = read_wav(path)
        assert rate == 8000 and samples.tolist() == [[0.25, 0.0, 0.5], [-1.5, 0.0, 1.0]]
    path.write_bytes(header(1, 24, size=0xFFFFFFFF, extensible=extensible) + b"\0\0\x40" + b"\0\0\xc0" + b"\1")
    assert read_wav(path)[0].tolist() == [[0.5, -0.5]]  # written to a pipe: its length was not known


def test_what_is_no_wav_is_refused_in_one_line(tmp_path):
    path = write(tmp_path / "a.wav", b"\0\0" * 9)
    whole = path.read_bytes()
    rates = (header(1, 16, rate=rate) for rate in (0, 1, 2**31 - 1))
    odd = (header(3, 16), header(6, 8), header(1, 12), header(1, 16, channels=0), *rates)
    for content in (b"", b"RIFF", whole[:30], whole[:36], b"ID3" + whole, *odd):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.wav: is no WAV file that is read here: .*, wish 8, 16, 24 or 32 bits, or"):
            read_wav(path)


@pytest.mark.parametrize(("rate", "wanted"), [(44100, 16000), (48000, 16000), (8000, 16000), (22050, 16000), (16000, 11025)])
def test_a_tone_at_another_rate_is_the_same_tone(rate, wanted):
    found = resample(torch.stack([tone(440, rate, 3000), tone(3000, rate, 3000)]), rate, wanted)
    assert found.shape == (2, -(-3000 * wanted // rate))
    inside = slice(300, found.shape[1] - 300)  # away from the silence around it
    for row, hertz in zip(found, (440, 3000)):
        torch.testing.assert_close(row[inside], tone(hertz, wanted, found.shape[1])[inside], atol=1e-4, rtol=0)


def test_a_tone_that_the_other_rate_cannot_hold_is_let_go():
    assert float(resample(tone(12000, 44100, 5000), 44100, 16000)[300:-300].abs().max()) < 1e-4
    assert torch.equal(resample(tone(440, 16000, 10), 16000, 16000), tone(440, 16000, 10))
    with pytest.raises(UsageError, match="from 0 to 16000"):
        resample(torch.zeros(3), 0, 16000)
    with pytest.raises(UsageError, match=r"from 4294967295 to 16000 a second, wish rates that share a larger divisor"):
        resample(torch.zeros(3), 4294967295, 16000)


@pytest.mark.parametrize("channels", [80, 128, 5])
def test_filters_have_equal_areas_and_stand_where_slaney_puts_them(channels):
    filters = mel_filters(channels, 400, 16000)
    assert filters.shape == (channels, 201) and float(filters.min()) == 0.0
    audio_utils = pytest.importorskip("transformers.audio_utils")
    theirs = audio_utils.mel_filter_bank(201, channels, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    torch.testing.assert_close(filters, torch.from_numpy(theirs.T).float(), atol=1e-7, rtol=1e-5)


def noise(samples):
    made = torch.Generator().manual_seed(3)
    return 0.3 * tone(440, 16000, samples) + 0.05 * torch.randn(samples, generator=made)


@pytest.mark.parametrize("channels", [80, 128])
def test_features_equal_those_of_transformers(channels):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.WhisperFeatureExtractor(feature_size=channels)
    sound = noise(50000)
    expected = theirs(sound.numpy(), sampling_rate=16000, return_tensors="pt").input_features[0]
    front = LogMel(channels=channels)
    found = front(front.windows(sound))[0]
    assert found.shape == (channels, 3000) == (channels, front.frames)
    assert float((found - expected).abs().max()) <= 1e-5


def test_a_long_sound_is_cut_into_windows_and_each_is_as_if_alone():
    front = LogMel(channels=5, seconds=0.5)
    sound = noise(20000)
    windows = front.windows(sound)
    assert windows.shape == (3, 8000) and torch.equal(windows.flatten()[:20000], sound) and not windows[2, 4000:].any()
    assert torch.equal(front(windows)[1], front(windows[1])) and front.windows(torch.zeros(0)).shape == (1, 8000)
    silence = front(torch.zeros(1, 8000))
    assert torch.equal(silence, torch.full((1, 5, 50), -1.5))
    for wrong in (torch.zeros(1, 200), torch.zeros(1, 8000, dtype=torch.long)):
        with pytest.raises(LayoutError, match="sound: are"):
            front(wrong)
    with pytest.raises(LayoutError, match="one channel"):
        front.windows(torch.zeros(2, 9))
