"""Options of ragstore: their sources, allowed values, and errors for wrong ones."""

from __future__ import annotations

from ragstore.settings.describe import SettingRow, describe
from ragstore.settings.options import Settings
from ragstore.settings.places import masked_url, with_password, without_driver

__all__ = ["SettingRow", "Settings", "describe", "masked_url", "with_password", "without_driver"]
