"""What requests reach beyond their own bytes, where dialects share it or it fills a file. Pure.

What nobody here has judged is refused: a kind of part, of item or of tool that is new may reach other agents' state, other hosts or
other models, or unfold to any number of tokens.
"""
