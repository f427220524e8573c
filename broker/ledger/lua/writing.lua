-- For scripts that write whatever they find: the time that they answer is remembered.
call('EXISTS', holds, open, kept, base .. '/tallies', base .. '/widths')
call('HSET', base, 'clock', now)
