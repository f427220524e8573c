"""What each dialect's answers and events say about what was used. One file per dialect; adding one is a file here. Pure."""
