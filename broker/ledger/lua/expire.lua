-- ARGV 3 how much of each to do at once. Answers whether there is more to do, then id, identity, tokens and micro-dollars
-- of what was spent now.
local most = tonumber(ARGV[3])
local overdue = call('ZRANGEBYSCORE', open, '-inf', now, 'LIMIT', 0, most)
local over = call('ZRANGEBYSCORE', kept, '-inf', now, 'LIMIT', 0, most)
local answer = {0, now, (#overdue == most or #over == most) and 1 or 0}
for _, id in ipairs(overdue) do
  local hold = find(id)
  call('ZREM', open, id)
  if hold then
    hold[1] = true
    release(id, hold[9])
    for _, charge in ipairs(hold[8]) do
      charge[5] = nil
    end
    call('HSET', holds, id, cmsgpack.pack({true, hold[2], hold[3], hold[4], hold[5], hold[6], hold[7], hold[8], {}, hold[10]}))
    call('ZADD', kept, hold[7] + $LATE, id)
    tally(hold[3], hold[2], hold[4] + hold[5], hold[6], 0, hold[10])
    answer[#answer + 1] = id
    answer[#answer + 1] = hold[2]
    answer[#answer + 1] = hold[4] + hold[5]
    answer[#answer + 1] = hold[10]
  end
end
if #over > 0 then
  call('HDEL', holds, unpack(over))
  call('ZREM', kept, unpack(over))
end
for _, window in ipairs(call('ZRANGEBYSCORE', base .. '/windows', '-inf', now)) do
  call('UNLINK', base .. '/' .. window)
  call('ZREM', base .. '/windows', window)
end
-- of the tallies a part, from where the last sweep ended: who did nothing for a day is forgotten
local step = call('HSCAN', base .. '/tallies', call('HGET', base, 'scan') or '0', 'COUNT', most)
for at = 1, #step[2], 2 do
  if struct.unpack('<I4', step[2][at + 1], 9) < math.floor(now / 3600000000) - 23 then
    call('HDEL', base .. '/tallies', step[2][at])
  end
end
call('HSET', base, 'scan', step[1])
return answer
