-- Hold for all budgets or for none: quota.grant, as far as it decides. What it says beyond yes and no, the broker works out of the same figures.
-- ARGV 3 the ask, packed: id, identity, policies, prompt bound, least and wanted output, requests, expires after, the minute that the windows are
--   of, the loss that the broker knows of, windows: each its key and its end; budgets: each its counter, unit (in capitals: shadow), limit and
--   which of the windows (0: a lease).
local id, identity, policies, prompt, least, wanted, requests, expires, minute, lost, windows, budgets = unpack(cmsgpack.unpack(ARGV[3]))
local quiet = tonumber(head[4] or 0) - server_now -- not by our time: should that stand still, this would never end
if call('HEXISTS', holds, id) == 1 then
  return {2, now}
elseif quiet > 0 and quiet <= $QUIET then
  return {4, now}
elseif tonumber(head[3] or 0) ~= lost then
  return {5, now, tonumber(head[3] or 0)}
elseif math.floor(now / 60000000) ~= minute then
  return {6, now}
end

least = math.min(least, wanted)
local needs = {t = prompt + least, i = prompt, o = least, r = requests, c = 1}
local granted, refused, answer = wanted, false, {0, now, 0}
for n, budget in ipairs(budgets) do
  local counter, unit, window, used = budget[1], string.lower(budget[2]), windows[budget[4]], 0
  if window then
    used = tonumber(call('HGET', base .. '/' .. window[1], counter) or 0)
  else
    used = call('ZCOUNT', base .. '/leases/' .. counter, string.format('(%.0f', now), '+inf')
  end
  answer[n + 3] = used
  if unit == budget[2] then
    local need, left = needs[unit], budget[3] - used
    if need > left and need > 0 then
      refused = true
    elseif unit == 't' then
      granted = math.max(least, math.min(granted, left - prompt))
    elseif unit == 'o' then
      granted = math.max(least, math.min(granted, left))
    end
  end
end
if refused then
  answer[1] = 1
  return answer
end
answer[3] = granted
call('EXISTS', open, base .. '/windows', base .. '/widths')

call('HSET', base, 'clock', now)
needs.t, needs.o = prompt + granted, granted
local charges, leases = {}, {}
for _, budget in ipairs(budgets) do
  local counter, unit, window = budget[1], string.lower(budget[2]), windows[budget[4]]
  if window then
    local need, key = needs[unit], base .. '/' .. window[1]
    if call('HINCRBY', key, counter, need) == need then
      call('ZADD', base .. '/windows', window[2], window[1]) -- for the sweep, and if nobody ever sweeps again, an hour later:
      call('PEXPIRE', key, string.format('%.0f', (window[2] - now) / 1000 + 3600000))
    end
    charges[#charges + 1] = {window[1], counter, unit, need}
  else
    call('ZADD', base .. '/leases/' .. counter, now + $LEASE, id)
    call('SADD', base .. '/widths', counter)
    leases[#leases + 1] = counter
  end
end
call('HSET', holds, id, cmsgpack.pack({false, identity, policies, prompt, granted, requests, now + expires, charges, leases}))
call('ZADD', open, now + expires, id)
return answer
