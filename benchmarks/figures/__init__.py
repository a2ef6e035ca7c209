"""What ``phantom.py`` measures, one module for each part; a part yields tables as it finds them."""
