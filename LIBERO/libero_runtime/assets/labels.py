"""The prints on groceries: sheets for boxes and cartons, wrapped labels for cans and bottles; the wine rack's sign.

Brands are left out on purpose: a print says what is inside, in the colours that the task language's readers expect.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

from PIL import Image

from libero_runtime.assets.drawing import BLACK, WHITE, Canvas, Color, sheet, wrapped

SERIF = "DejaVuSerif-Bold"
ITALIC = "DejaVuSans-BoldOblique"

_STEEL: Color = (196, 198, 202)
_DARK_STEEL: Color = (150, 152, 156)


# Cans: 196 mm around, 76 mm high; the label appears twice, in the middle (front) and at the seam (back).
_CAN_AROUND, _CAN_HEIGHT = 196.0, 76.2
_FACES_OF_CAN = (0.0, _CAN_AROUND / 2, _CAN_AROUND)


def _can(label: Color) -> Canvas:
    canvas = Canvas(_CAN_AROUND, _CAN_HEIGHT, label)
    canvas.band(0, 4.0, _STEEL).band(3.2, 4.0, _DARK_STEEL)
    return canvas.band(_CAN_HEIGHT - 3.5, _CAN_HEIGHT, _STEEL)


def _alphabet_soup() -> Image.Image:
    """Red above white, a golden medal between them, letters swimming in the lower half."""
    red: Color = (205, 22, 26)
    canvas = _can((248, 244, 236)).band(4.0, 37.0, red)
    for x in _FACES_OF_CAN:
        canvas.text("ALPHABET", (x - 31, 9, x + 31, 20), WHITE)
        canvas.text("SOUP", (x - 29, 44, x + 29, 60), red, face=SERIF)
        canvas.ellipse(x, 30.5, 9.5, 9.5, (214, 170, 60)).ellipse(x, 30.5, 7.5, 7.5, (250, 226, 150))
        canvas.text("A", (x - 4.5, 25.5, x + 4.5, 35.5), red, face=SERIF)
        for offset, letter, color in ((-24, "A", red), (-12, "B", (30, 90, 170)), (0, "C", (40, 140, 60)),
                                      (12, "D", (230, 130, 20)), (24, "E", red)):  # fmt: skip
            canvas.text(letter, (x + offset - 4, 63, x + offset + 4, 71), color)
    return wrapped(canvas)


def _tomato_sauce() -> Image.Image:
    """Two tomatoes on a cream ground between a green and a dark red band."""
    cream: Color = (246, 224, 160)
    canvas = _can(cream).band(4.0, 18.0, (36, 104, 52)).band(55.0, 72.7, (140, 16, 14))
    for x in _FACES_OF_CAN:
        canvas.text("TOMATO", (x - 30, 6, x + 30, 16), WHITE)
        canvas.tomato(x - 14, 38, 13).tomato(x + 14, 38, 13)
        canvas.text("SAUCE", (x - 28, 57.5, x + 28, 70), (252, 220, 110), face=SERIF)
    return wrapped(canvas)


# Bottles: around the middle of the label, then up to the cap; heights from the top.
def _ketchup() -> Image.Image:
    """Red all over, a white label with a tomato, a white cap."""
    red: Color = (196, 14, 12)
    canvas = Canvas(160.0, 145.6, red).band(0, 30.0, (244, 243, 240)).band(28.5, 30.0, (205, 204, 200))
    for x in (0.0, 80.0, 160.0):
        canvas.box((x - 24, 58, x + 24, 122), WHITE, radius=6)
        canvas.box((x - 24, 92, x + 24, 108), (32, 110, 44))
        canvas.tomato(x, 78, 11)
        canvas.text("KETCHUP", (x - 22, 94.5, x + 22, 105.5), WHITE)
        canvas.text("tomato", (x - 14, 110, x + 14, 119), red, face=ITALIC)
    return wrapped(canvas)


def _salad_dressing() -> Image.Image:
    """Pale green dressing under glass, a dark green cap and label with leaves."""
    green: Color = (16, 92, 44)
    canvas = Canvas(150.0, 145.6, (206, 212, 150)).band(0, 26.0, green).band(24.0, 26.0, (10, 60, 30))
    for x in (0.0, 75.0, 150.0):
        canvas.box((x - 23, 72, x + 23, 132), green, radius=4)
        canvas.box((x - 21, 74, x + 21, 130), (240, 244, 214), radius=3)
        for angle in range(-60, 61, 30):
            slope = math.radians(angle)
            canvas.ellipse(x + 13 * math.sin(slope), 92 - 9 * math.cos(slope), 5.0, 5.0, (88, 158, 52))
        canvas.ellipse(x, 89, 6.5, 5.5, (52, 128, 40)).ellipse(x + 6, 91, 3.2, 3.2, (214, 40, 24))
        canvas.text("SALAD", (x - 19, 97, x + 19, 110), green)
        canvas.text("DRESSING", (x - 19, 113, x + 19, 124), green)
    return wrapped(canvas)


def _bbq_sauce() -> Image.Image:
    """Nearly black sauce, a black cap, flames and yellow letters on the label."""
    canvas = Canvas(124.0, 107.1, (62, 20, 12)).band(0, 20.0, (22, 20, 20))
    for x in (0.0, 62.0, 124.0):
        canvas.box((x - 21, 48, x + 21, 100), BLACK, radius=3)
        for offset, height in ((-14, 14.0), (-7, 21.0), (0, 27.0), (7, 20.0), (14, 15.0)):
            for share, color in ((1.0, (222, 62, 14)), (0.6, (250, 178, 30))):
                half = 5.5 * share
                base = 98.0
                tip = (x + offset + 1.5, base - height * share)
                canvas.polygon([(x + offset - half, base), tip, (x + offset + half, base)], color)
        canvas.text("BBQ", (x - 19, 51, x + 19, 68), (252, 196, 40))
        canvas.text("SAUCE", (x - 17, 70, x + 17, 79), WHITE)
    return wrapped(canvas)


def _box(front: Canvas, side: Canvas, top: Canvas, plain: Color) -> Image.Image:
    """A sheet with the same print on opposite faces and a plain bottom."""
    return sheet(
        {"front": front, "back": front, "right": side, "left": side, "top": top, "bottom": Canvas(20, 20, plain)}
    )


def _cream_cheese() -> Image.Image:
    """Silver with blue waves and blue letters."""
    silver: Color = (206, 212, 222)
    blue: Color = (22, 62, 160)

    def strip(width: float) -> Canvas:
        """One side of the package, `width` mm wide."""
        canvas = Canvas(width, 18, silver).band(12.5, 18, blue)
        return canvas.text("CREAM CHEESE", (2, 2.5, width - 2, 11), blue)

    top = Canvas(43, 81, silver).band(0, 14, blue).band(67, 81, blue)
    top.ellipse(21.5, 14, 26, 6, blue).ellipse(21.5, 67, 26, 6, blue)
    top.ellipse(21.5, 40.5, 20.5, 17.5, WHITE)
    top.text("CREAM", (4, 28, 39, 39), blue).text("CHEESE", (4, 42, 39, 53), blue)
    top.text("soft", (13, 4, 30, 14), WHITE, face=ITALIC)
    return _box(strip(43), strip(81), top, silver)


def _butter() -> Image.Image:
    """Yellow with a red band and red letters."""
    yellow: Color = (250, 206, 40)
    red: Color = (186, 30, 24)

    def strip(width: float) -> Canvas:
        """One side of the package, `width` mm wide."""
        canvas = Canvas(width, 17.4, yellow).band(0, 3, red)
        return canvas.text("BUTTER", (3, 5, width - 3, 15), red)

    top = Canvas(39.5, 76.2, yellow).band(0, 7, red).band(69.2, 76.2, red)
    top.text("BUTTER", (3, 12, 36.5, 27), red)
    # a stick of butter with a slice cut off
    top.polygon([(6, 52), (24, 44), (34, 49), (16, 57)], (255, 240, 170))
    top.polygon([(6, 52), (16, 57), (16, 65), (6, 60)], (240, 188, 60))
    top.polygon([(16, 57), (34, 49), (34, 57), (16, 65)], (252, 222, 110))
    top.text("sweet cream", (5, 31, 34, 38), (120, 70, 10), face=ITALIC)
    return _box(strip(39.5), strip(76.2), top, yellow)


def _chocolate_pudding() -> Image.Image:
    """Chocolate brown with a bowl of pudding and cream-coloured letters."""
    brown: Color = (88, 44, 22)
    cream: Color = (250, 230, 190)

    def strip(width: float) -> Canvas:
        """One side of the package, `width` mm wide."""
        canvas = Canvas(width, 27.4, brown).band(21, 27.4, (52, 24, 12))
        canvas.text("CHOCOLATE", (2.5, 3, width - 2.5, 11), cream)
        return canvas.text("PUDDING", (4, 12, width - 4, 19.5), (252, 196, 90))

    top = Canvas(46.3, 80.2, brown).band(0, 5, (52, 24, 12)).band(75.2, 80.2, (52, 24, 12))
    top.text("CHOCOLATE", (3, 9, 43.3, 18), cream).text("PUDDING", (4, 21, 42.3, 31), (252, 196, 90))
    top.ellipse(23, 58, 17, 13, WHITE).ellipse(23, 55, 15.5, 9.5, (66, 30, 14))
    top.ellipse(23, 53, 8, 5, (116, 64, 34)).ellipse(23, 50.5, 4, 3.5, WHITE).ellipse(23, 48, 1.6, 1.6, (200, 20, 30))
    return _box(strip(46.3), strip(80.2), top, brown)


# Gable cartons: the fronts stand under the gables, sides under the slopes; "top" is a slope, "bottom" plain.
def _milk() -> Image.Image:
    """White with a blue foot, a blue roof and blue letters."""
    blue: Color = (28, 88, 186)
    white: Color = (247, 248, 250)

    def face() -> Canvas:
        """One side of the carton."""
        canvas = Canvas(53, 100, white).band(70, 100, blue)
        canvas.ellipse(26.5, 71, 34, 8, blue)
        canvas.text("MILK", (4, 12, 49, 34), blue)
        # a glass of milk
        canvas.polygon([(17, 44), (36, 44), (33, 76), (20, 76)], (190, 212, 240))
        canvas.polygon([(18, 49), (35, 49), (32.5, 74.5), (20.5, 74.5)], WHITE)
        return canvas.text("whole", (14, 82, 39, 93), WHITE, face=ITALIC)

    slope = Canvas(53, 33, blue).text("MILK", (10, 8, 43, 25), WHITE)
    return _box(face(), face(), slope, white)


def _orange_juice() -> Image.Image:
    """Orange with a cut orange, green letters' ground and a green roof."""
    orange: Color = (246, 138, 20)
    green: Color = (40, 128, 52)

    def face() -> Canvas:
        """One side of the carton."""
        canvas = Canvas(53, 100, orange).band(4, 38, WHITE)
        canvas.text("ORANGE", (3, 7, 50, 20), (232, 100, 8)).text("JUICE", (7, 22, 46, 35), green)
        canvas.ellipse(26.5, 68, 21, 21, (255, 196, 60)).ellipse(26.5, 68, 18.5, 18.5, (255, 244, 214))
        for index in range(8):
            start, stop = (2 * math.pi * (index + share) / 8 for share in (0.08, 0.92))
            rim = [(26.5 + 17 * math.cos(a), 68 + 17 * math.sin(a)) for a in (start, (start + stop) / 2, stop)]
            canvas.polygon([(26.5, 68), *rim], (252, 152, 28))
        return canvas

    slope = Canvas(53, 33, green).text("JUICE", (10, 8, 43, 25), WHITE)
    return _box(face(), face(), slope, orange)


def _wine_rack() -> Image.Image:
    """A cream-coloured sign with grapes."""
    purple: Color = (96, 22, 78)
    canvas = Canvas(96, 33, (120, 62, 30)).box((1.5, 1.5, 94.5, 31.5), (250, 240, 214), radius=3)
    canvas.polygon([(14, 2.5), (24, 3), (19, 9)], (70, 140, 50))
    for row, count in enumerate((4, 3, 2, 1)):
        for index in range(count):
            canvas.ellipse(15 + 6.0 * (index - (count - 1) / 2), 10 + 5.6 * row, 3.3, 3.3, purple)
    return canvas.text("WINE", (31, 5, 92, 28), purple, face=SERIF).picture(384, 132)


LABELS: dict[str, Callable[[], Image.Image]] = {
    "alphabet_soup_label": _alphabet_soup,
    "bbq_sauce_label": _bbq_sauce,
    "butter_label": _butter,
    "chocolate_pudding_label": _chocolate_pudding,
    "cream_cheese_label": _cream_cheese,
    "ketchup_label": _ketchup,
    "milk_label": _milk,
    "orange_juice_label": _orange_juice,
    "salad_dressing_label": _salad_dressing,
    "tomato_sauce_label": _tomato_sauce,
    "wine_rack_label": _wine_rack,
}


def build_label(name: str) -> bytes:
    """The PNG file of one print."""
    if name not in LABELS:
        raise ValueError(f"no print {name!r}; there are {sorted(LABELS)}")
    buffer = io.BytesIO()
    LABELS[name]().save(buffer, format="PNG")
    return buffer.getvalue()
