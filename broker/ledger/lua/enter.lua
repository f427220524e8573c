-- A broker that begins to count in a namespace, or counts on over a new connection, says what it knows of it; here is found out what was lost.
-- ARGV 1 the epoch that it counted in ('' at its first time), 2 the last time that it was told in it, 3 run id of the server, 4 the name of an
--   epoch should one have to begin, 5 a time not to begin before; then ids that were voided before, each with the time until which that is remembered.
-- The hash KEYS[1]: epoch, clock: the largest time told; run: which server; lost: since when counts may be too low, 0 or absent when they
--   are not; quiet: until when, by the server's clock, nothing is held; was:EPOCH: an epoch that ended, and what the clock was then;
--   layout: how all that is kept is written.
local base, call = KEYS[1], redis.call
local head = call('HMGET', base, 'epoch', 'clock', 'run', 'layout')
local epoch, clock, time = head[1], tonumber(head[2] or 0), $TIME
if epoch and head[4] ~= '$LAYOUT' then
  return {8, clock}
end
local mine, known = ARGV[1], tonumber(ARGV[2])
local server_now = time[1] * 1000000 + time[2]
local now = math.max(clock, known, tonumber(ARGV[5]), server_now)
local lost, what = false, 'same'
if not epoch then
  epoch, lost, what = ARGV[4], mine ~= '', 'begun'
  call('HSET', base, 'epoch', epoch, 'run', ARGV[3], 'layout', '$LAYOUT')
else
  if mine == epoch then
    lost = known > clock
  elseif mine ~= '' then
    lost = known > tonumber(call('HGET', base, 'was:' .. mine) or -1)
  end
  if head[3] ~= ARGV[3] then -- another server: it may have begun behind what other brokers know, so they get time to say so
    call('HSET', base, 'was:' .. epoch, clock, 'quiet', server_now + $QUIET, 'run', ARGV[3], 'epoch', ARGV[4])
    epoch, what = ARGV[4], 'other'
  elseif server_now - clock > $LEASE / 2 and call('EXISTS', base .. '/widths') == 1 then -- nobody swept, so all were cut off, and none
    call('HSET', base, 'quiet', server_now + $QUIET) -- could renew its leases: all get time to do it before one of these is given away
  end
end
if lost then
  call('HSET', base, 'lost', now)
  if mine ~= epoch then
    call('HSET', base, 'was:' .. mine, '9000000000000000') -- it is known: who else counted in that epoch adds nothing new
  end
end
call('HSET', base, 'clock', now)
for at = 6, #ARGV, 2 do
  if call('HSETNX', base .. '/holds', ARGV[at], 'v') == 1 then
    call('ZADD', base .. '/kept', ARGV[at + 1], ARGV[at])
  end
end
return {0, now, epoch, what, tonumber(call('HGET', base, 'lost') or 0)}
