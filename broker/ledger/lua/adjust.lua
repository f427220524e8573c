-- Looks at counters, and changes one of them if told to.
-- ARGV 3 packed: the minute that the windows are of; windows: each its key and its end; looks: each its counter, which of the windows, the name
--   of its credit, and from which value on it is asked how much of it is held; the credit to add to the first and whether to clear it.
-- Answers of each: used, held, credit.
local minute, windows, looks, credit, clears = unpack(cmsgpack.unpack(ARGV[3]))
if math.floor(now / 60000000) ~= minute then
  return {6, now}
end
local answer, charged, asked = {7, now}, {}, false
for n, look in ipairs(looks) do
  local key = base .. '/' .. windows[look[2]][1]
  local kept, credited = tonumber(call('HGET', key, look[1]) or 0), tonumber(call('HGET', key, look[3]) or 0)
  asked = asked or math.max(kept, kept + credited) >= look[4]
  answer[3 * n], answer[3 * n + 1], answer[3 * n + 2] = kept + credited, 0, credited
  charged[windows[look[2]][1] .. ' ' .. look[1]] = n
end
local ids = asked and call('ZRANGEBYSCORE', open, '-inf', '+inf') or {}
for first = 1, #ids, 1000 do
  for _, record in ipairs(call('HMGET', holds, unpack(ids, first, math.min(first + 999, #ids)))) do
    for _, charge in ipairs(record and cmsgpack.unpack(record)[8] or {}) do
      local n = charged[charge[1] .. ' ' .. charge[2]]
      if n then
        answer[3 * n + 1] = answer[3 * n + 1] + charge[4]
      end
    end
  end
end
if not clears and credit == 0 then
  return answer
end
local window, by = windows[looks[1][2]], (clears and answer[4] - answer[3] or 0) - credit
local key = base .. '/' .. window[1]
local lost = call('EXISTS', key) == 0 and call('ZSCORE', base .. '/windows', window[1]) -- as in hold.lua, and must not be hidden by us

call('HSET', base, 'clock', now)
if lost then
  call('HSET', base, 'lost', now)
end
answer[1] = 0
call('HINCRBY', key, looks[1][1], string.format('%.0f', by))
call('HINCRBY', key, looks[1][3], string.format('%.0f', credit))
call('ZADD', base .. '/windows', window[2], window[1]) -- as hold.lua, when a window begins
return answer
