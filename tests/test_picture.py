"""Images: whatever is wrong with one is one `MediaError`, and each is seen as it is displayed."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import picture, prompt, write_image
from PIL import Image

from spacevllm_plugin.data.video import MediaError, VideoRef, image_size, probe, read, read_image


def chunk(name, data):
    """A PNG chunk."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def broken_images(folder: Path) -> dict[str, str]:
    """name -> what its error says of a file in `folder` that Pillow, or a processor, fails at in its own way."""
    begin, end = b"\x89PNG\r\n\x1a\n", chunk(b"IEND", b"")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    huge = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    files = {
        "bomb.png": (begin + huge + chunk(b"IDAT", zlib.compress(b"")) + end, "not a readable image (Decompression"),
        "chunk.png": (begin + header[:-1] + b"x" + end, "not a readable image ("),
        "short.png": (begin + chunk(b"IHDR", b"12"), "not a readable image ("),
        "text.jpg": (b"no image" * 9, "not a readable image ("),
        "blank.jpg": (b"", "not a readable image ("),
    }
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)

    Image.new("RGB", (1010, 5)).save(folder / "stretched.png")
    return {name: says for name, (_, says) in files.items()} | {
        "stretched.png": "of a shape that the processor refuses"
    }


def test_broken_images_are_one_line(tmp_path, make_engine):
    prompter = make_engine("qwen3_vl").prompter
    for name, says in broken_images(tmp_path).items():
        with pytest.raises(MediaError) as error:
            (plan,), _ = prompter.plan([str(tmp_path / name)], [])
            prompter.grid(plan)

        assert str(error.value).startswith(f"{tmp_path / name}: {says}") and "\n" not in str(error.value)


def test_pixels_that_are_broken_behind_a_good_header_are_one_line(tmp_path):
    whole = Path(write_image(tmp_path / "whole.png", width=96, height=96)).read_bytes()
    place = whole.index(b"IDAT")
    bad = {
        "cut.png": whole[:-40],
        "zlib.png": whole[: place + 4] + bytes(40) + whole[place + 44 :],
        "name.png": whole[:place] + b"\0\0\0\0" + whole[place + 4 :],
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MediaError, match=f"{name}: not a readable image"):
            read_image(str(tmp_path / name))

        with pytest.raises(MediaError, match="an image of .* bytes: not a readable image"):
            read_image(data)

    with pytest.raises(MediaError, match="gone.png: no such image"):
        read_image(str(tmp_path / "gone.png"))


def test_a_warning_turned_error_is_a_media_error(tmp_path):
    path = write_image(tmp_path / "large.png", width=96, height=96)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 95)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for use in (image_size, read_image):
            with pytest.raises(MediaError, match="large.png: not a readable image"):
                use(path)


# What a viewer makes of the stored picture, by the number in EXIF.
DISPLAYED = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", DISPLAYED)
def test_images_are_seen_as_they_are_displayed(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(picture(3, 96, 48)).save(path, exif=exif, quality=100)
    shown = DISPLAYED[orientation](picture(3, 96, 48))
    assert image_size(str(path)) == shown.shape[1::-1]
    for source in (str(path), path.read_bytes(), {"path": str(path), "bytes": None}, Image.open(path)):
        image = read_image(source)
        assert image.mode == "RGB" and image.size == image_size(source) == shown.shape[1::-1]
        assert np.abs(np.asarray(image).astype(int) - shown).mean() < 12


def test_frames_given_as_images_are_seen_as_they_are_displayed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(3, 96, 48)).save(tmp_path / "0.png", exif=exif)
    for ref in (VideoRef(str(tmp_path), fps=1.0), VideoRef(frames=(str(tmp_path / "0.png"),), fps=1.0)):
        info = probe(ref)
        assert (info.width, info.height) == (48, 96)
        assert np.array_equal(read(ref, [0])[0], DISPLAYED[6](picture(3, 96, 48)))


def test_the_model_gets_the_displayed_picture(engine, tmp_path):
    """Grid, pixels and the size that boxes are counted in are those of the upright picture."""
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(picture(3, 96, 48)).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(DISPLAYED[8](picture(3, 96, 48))).save(tmp_path / "upright.png")
    turned, upright = (prompt(engine, "<image>?", images=[str(tmp_path / f"{n}.png")]) for n in ("turned", "upright"))
    assert turned.token_ids == upright.token_ids
    assert [(plan.width, plan.height) for plan in turned.images] == [(48, 96)]
    ours, expected = (engine.prompter.model_inputs([i.token_ids], [i.images], [[]]) for i in (turned, upright))
    assert all((ours[name] == expected[name]).all() for name in expected)
