-- What ends a hold. Its record: is it spent?, identity, policies, prompt bound, granted output, requests, expires at, charges, leases,
-- micro-dollars; or 'v' for an id that was voided before it was held.
local function find(id)
  local record = call('HGET', holds, id)
  if record == 'v' then
    return nil, true
  elseif record then
    local hold = cmsgpack.unpack(record)
    for _, charge in ipairs(hold[8]) do
      charge[5] = call('HEXISTS', base .. '/' .. charge[1], charge[2]) == 1 -- else its window is over and forgotten
    end
    for _, counter in ipairs(hold[9]) do
      call('ZSCORE', base .. '/leases/' .. counter, id)
    end
    return hold, true
  end
  return nil, false
end

local function change(charge, by)
  if by ~= 0 and charge[5] then
    call('HINCRBY', base .. '/' .. charge[1], charge[2], by)
  end
end

local function release(id, leases)
  for _, counter in ipairs(leases) do
    local key = base .. '/leases/' .. counter
    call('ZREM', key, id)
    if call('EXISTS', key) == 0 then
      call('SREM', base .. '/widths', counter)
    end
  end
end
