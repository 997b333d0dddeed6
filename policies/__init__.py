"""The rules: plain functions of plain values. They know no Ray, no HTTP, and no clock but the one passed in."""
