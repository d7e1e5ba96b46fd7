"""Folders of pictures: a class per sub-folder, or none; with metadata beside them, or none."""

from components.sources import media

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")

KIND = media.kind("images", "pictures", SUFFIXES, modality="image", at_most=64 * 2**20)
