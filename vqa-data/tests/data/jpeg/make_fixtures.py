"""Writes the pictures here, with Pillow: what the encoder of the tests cannot.

    python3 make_fixtures.py
"""

from PIL import Image

noise = Image.effect_noise((45, 37), 60)
colours = Image.merge("RGB", [noise, noise.rotate(180), Image.linear_gradient("L").resize((45, 37))])
colours.save("progressive.jpg", quality=60, subsampling=2, progressive=True)
colours.save("restarts.jpg", quality=60, subsampling=1, restart_marker_blocks=2)
colours.convert("CMYK").save("cmyk.jpg", quality=60)
