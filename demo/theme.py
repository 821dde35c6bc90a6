"""Colours, type and corners of the page; the rest is in style.css."""

import gradio as gr

SYSTEM = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
"""Fonts that every machine has, so that none is fetched."""


def make_theme() -> gr.themes.Base:
    """The theme of the page, in the colours of the Selection Lens."""
    return gr.themes.Base(
        primary_hue="cyan",
        neutral_hue="slate",
        font=SYSTEM,
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
        radius_size="lg",
    ).set(
        body_background_fill="#f4f6f8",
        body_background_fill_dark="#0d1117",
        body_text_color="#131a22",
        body_text_color_dark="#ecf0f5",
        body_text_color_subdued="#5a6675",
        body_text_color_subdued_dark="#94a0b0",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#171d26",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_label_text_color="#5a6675",
        block_label_text_color_dark="#94a0b0",
        border_color_primary="#dde3ea",
        border_color_primary_dark="#2a3340",
        color_accent="#00708a",
        color_accent_soft="#d9f3f9",
        color_accent_soft_dark="#10343e",
        slider_color="#00708a",
        slider_color_dark="#40e0ff",
    )
