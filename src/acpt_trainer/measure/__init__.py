"""Measuring what a strategy gives and costs."""
