-- How every script but enter.lua begins. Two things hold for all of them:
-- * KEYS[1] is the namespace's own hash, and its name begins the names of all its other keys. Those are not declared: which windows a hold
--   was charged in stands in its record alone. All lie in the same hash slot, by the tag in KEYS[1].
-- * They read every key before they write the first. A node that is handing the slot over fails at the first key that is gone, and then
--   nothing was changed.
-- Answers begin with a code (redis_scripts.Code) and the namespace's time, in microseconds as everywhere here.
local base, call = KEYS[1], redis.call
local holds, open, kept = base .. '/holds', base .. '/open', base .. '/kept'
local head = call('HMGET', base, 'epoch', 'clock', 'lost', 'quiet')
local clock, time = tonumber(head[2] or 0), $TIME
local server_now = time[1] * 1000000 + time[2]
local now = math.max(clock, server_now)
if head[1] ~= ARGV[1] or clock < tonumber(ARGV[2]) then
  return {3, now} -- not what the broker counted in: something was lost
end
