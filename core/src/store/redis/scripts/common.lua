-- Stands before each script. KEYS[1] is the batch's hash; its other keys share its braces, and so its slot.
local batch = KEYS[1]
local base = string.sub(batch, 1, -6) -- without `batch`
local call = redis.call

-- Lua would write large numbers as 1e+15.
local function whole(number)
  return string.format('%.0f', number)
end

local function number(field)
  return tonumber(call('HGET', batch, field) or '0')
end

local function each_key(act)
  for _, name in ipairs({'batch', 'outcomes', 'bands', 'dead', 'revived', 'reviving', 'pages'}) do
    act(base .. name)
  end
  for _, page in ipairs(call('SMEMBERS', base .. 'pages')) do
    act(base .. 'bits:' .. page)
  end
end

local function expire_in(milliseconds)
  each_key(function(key) call('PEXPIRE', key, milliseconds) end)
end

local function now()
  local time = call('TIME')
  return whole(tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
end

-- Whether there is such a batch, for whoever goes on with it: then it stays, though it was given up before.
local function go_on()
  -- Asked first: once a script has written anything, a Redis that is full takes the rest too.
  if call('HEXISTS', batch, 'abandoned') == 1 then
    call('HDEL', batch, 'abandoned')
    each_key(function(key) call('PERSIST', key) end)
  end
  return call('EXISTS', batch) == 1
end

local function changed()
  call('HSET', batch, 'touched', now())
  call('PUBLISH', base .. 'changed', whole(call('HINCRBY', batch, 'version', 1)))
end

-- Where the last outcome has come, the results begin to age.
local function complete(ttl)
  local is = call('HMGET', batch, 'total', 'ok', 'failed', 'dead', 'cancelled', 'expired', 'completed')
  if not is[1] or is[7] then
    return
  end
  local recorded = 0
  for at = 2, 6 do
    recorded = recorded + tonumber(is[at])
  end
  if recorded == tonumber(is[1]) then
    call('HSET', batch, 'completed', now())
    expire_in(ttl)
  end
end

-- One past the last item that has an outcome.
local function recorded_end()
  local pages = call('SMEMBERS', base .. 'pages')
  table.sort(pages, function(one, other) return tonumber(one) > tonumber(other) end)
  for _, page in ipairs(pages) do
    local bytes = call('GET', base .. 'bits:' .. page) or ''
    for at = #bytes, 1, -1 do
      local byte = string.byte(bytes, at)
      if byte > 0 then
        local bit = 7
        while byte % 2 == 0 do
          byte = byte / 2
          bit = bit - 1
        end
        return tonumber(page) * 65536 + (at - 1) * 8 + bit + 1
      end
    end
  end
  return 0
end

