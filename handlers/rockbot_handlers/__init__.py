"""The capabilities of the host as plug-ins: one folder each, none of them knows another; they meet only as events."""
