"""Pages to look at: figures as inline SVG, one self-contained HTML file per report."""
