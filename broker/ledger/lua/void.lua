-- ARGV 3 id. One that is unknown is remembered.
local hold, known = find(ARGV[3])
if not known then
  call('HSET', holds, ARGV[3], 'v')
  call('ZADD', kept, now + $VOID, ARGV[3])
elseif hold and not hold[1] then
  for _, charge in ipairs(hold[8]) do
    change(charge, -charge[4])
  end
  call('HDEL', holds, ARGV[3])
  call('ZREM', open, ARGV[3])
  release(ARGV[3], hold[9])
end
return {0, now}
