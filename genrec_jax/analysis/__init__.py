"""Analysis: what a compiled step costs, read off its HLO; may import train."""
