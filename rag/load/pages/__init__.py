"""What is printed on a page: lines of type, and tables drawn with rules."""
