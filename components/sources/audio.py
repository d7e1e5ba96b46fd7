"""Folders of recordings: with metadata that says what is spoken, or a class per sub-folder, or neither."""

from components.sources import media

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")

# 256 MiB are 46 minutes of 16 bits at 48 kHz; what is longer should be cut into rows anyway.
KIND = media.kind("audio", "recordings", SUFFIXES, modality="audio", at_most=256 * 2**20)
