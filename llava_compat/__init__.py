"""Interoperability with LLaVA, VILA and PS3: everything that is named after them lives here."""
