"""`kubectl aiaccess`: who may call what, and who used how much, asked of a cluster with the rights of whoever asks.

command.py     what it takes            explaining.py  the objects as far as one may read them
using.py       what status.usage says
"""
