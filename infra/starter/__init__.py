"""The starter datasets: one file each, which fills a folder from a source that is already on this machine."""
