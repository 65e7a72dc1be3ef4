"""Options: where they come from, what they may be, and what is said when one is wrong."""

from __future__ import annotations

from ragstore.settings.describe import SettingRow, describe
from ragstore.settings.options import Settings
from ragstore.settings.places import masked_url, with_password, without_driver

__all__ = ["SettingRow", "Settings", "describe", "masked_url", "with_password", "without_driver"]
