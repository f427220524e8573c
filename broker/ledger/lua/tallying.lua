-- What an identity did under a policy: when it last used it, then 20 bytes for each hour with something in it, the oldest first.
local function tally(policies, identity, tokens, requests, denied)
  local hour = math.floor(now / 3600000000)
  for policy in string.gmatch(policies, '%S+') do
    local field = policy .. ' ' .. identity
    local known = call('HGET', base .. '/tallies', field)
    local used_at, hours, t, r, d = 0, '', 0, 0, 0
    if known then
      used_at, hours = struct.unpack('<d', known), string.sub(known, 9)
    end
    if hours ~= '' and struct.unpack('<I4', hours, #hours - 19) == hour then
      t, r, d = struct.unpack('<I8I4I4', hours, #hours - 15)
      hours = string.sub(hours, 1, -21)
    end
    while hours ~= '' and struct.unpack('<I4', hours) < hour - 23 do
      hours = string.sub(hours, 21)
    end
    if denied == 0 then
      used_at = now
    end
    hours = hours .. struct.pack('<I4I8I4I4', hour, t + tokens, r + requests, d + denied)
    call('HSET', base .. '/tallies', field, struct.pack('<d', used_at) .. hours)
  end
end
