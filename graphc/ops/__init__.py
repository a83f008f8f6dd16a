"""Every op, declared once. Import this package to fill the registry."""
